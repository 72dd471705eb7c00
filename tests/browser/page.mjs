// Drives the page of `rotad serve` in Chromium (tests/page.rs): the real page of a real master. Waits for conditions alone.
// Environment: ROTAD, CONSOLE (programs), CONFIG, PORT, MODULES (node_modules).
import { createRequire } from "node:module";
import { execFile, execFileSync, spawn } from "node:child_process";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import assert from "node:assert/strict";

const { ROTAD, CONSOLE, CONFIG, PORT, MODULES } = process.env;
const { chromium } = createRequire(`${MODULES}/`)("playwright-core");
const AXE = readFileSync(`${MODULES}/axe-core/axe.min.js`, "utf8");
const TOKEN = "0123456789abcdef0123";
const ADDRESS = `http://127.0.0.1:${PORT}/`;
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const rotad = (...words) => execFileSync(ROTAD, [words[0], "-c", CONFIG, ...words.slice(1)], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
const fails = (...words) => new Promise((done) => execFile(ROTAD, [words[0], "-c", CONFIG, ...words.slice(1)], (error) => done(error?.code ?? 0)));
const status = (name) => JSON.parse(rotad("status", "--json")).pools.find((pool) => pool.name === name);
function write(name, text) {
  writeFileSync(`${name}.draft`, text, { mode: 0o600 });
  renameSync(`${name}.draft`, name);
}
let server = null;
function serve() {
  server = spawn(CONSOLE, ["serve", "-c", CONFIG, "--listen", `127.0.0.1:${PORT}`, "--allow-actions", "--token-file", "token"], { stdio: ["ignore", "inherit", "pipe"] });
  return new Promise((done, failed) => {
    server.stderr.on("data", (text) => { if (String(text).includes("rotad serves")) done(); });
    server.on("exit", (code) => failed(new Error(`rotad serve has ended with ${code}`)));
  });
}
async function end(signal) {
  const ended = new Promise((done) => server.on("exit", done));
  server.removeAllListeners("exit");
  server.on("exit", () => {});
  const left = new Promise((done) => server.once("exit", done));
  server.kill(signal);
  await Promise.race([ended, left]);
}

write("token", `${TOKEN}\n`);
await serve();
const context = await chromium.launchPersistentContext("profile", { executablePath: "/usr/bin/chromium", args: FLAGS, viewport: { width: 1280, height: 900 }, colorScheme: "light" });
context.setDefaultTimeout(8000);
const page = context.pages()[0] ?? await context.newPage();
const wrong = [];
const listen = (page) => {
  page.on("pageerror", (error) => wrong.push(error.stack));
  page.on("console", (message) => { if (/Content.Security|Refused/.test(message.text())) wrong.push(message.text()); });
};
listen(page);

const now = page.locator("#now");
const pool = (name) => page.locator(`section[aria-label="Pool ${name}"]`);
const calm = () => now.getByText("All is well", { exact: false }).waitFor();
const says = (text) => now.getByText(text, { exact: false }).first().waitFor();
const until = (what, argument) => page.waitForFunction(what, argument, { polling: 50 });
async function accessible(what) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => axe.run({ exclude: ["#events li:nth-child(n+12)"] }, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"] }));
  const text = found.violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => `${node.html} ${node.failureSummary}`).join("; ")}`);
  assert.deepEqual(text, [], `accessible, ${what}`);
}
async function keys(...names) {
  for (const name of names) await page.keyboard.press(name);
}
// This key alone, until what has the focus is this.
async function tabTo(what, key = "Tab") {
  for (let at = 0; at < 80; at += 1) {
    await page.keyboard.press(key);
    if (await page.evaluate((what) => document.activeElement?.textContent === what, what)) return;
  }
  assert.fail(`${key} does not lead to ${what}`);
}

const steps = {
  async "the page shows what runs, and keeps the token to itself"() {
    await page.goto(`${ADDRESS}#token=${TOKEN}`);
    await calm();
    assert.equal(page.url(), ADDRESS);
    assert.equal(await pool("web").locator(".slot").count(), 4);
    assert.match(await pool("web").locator(".facts").innerText(), /4 of 4[\s\S]*127\.0\.0\.1:/);
    await until(() => document.title.includes("site"));
    await page.locator(".event .kind", { hasText: /^pool-ready$/ }).first().waitFor();
  },

  async "a link leads to an event and to a pool's lines, which are text"() {
    await page.evaluate(() => { location.hash = "#event/2"; });
    await until(() => document.activeElement?.closest("#event-2.chosen"));
    await page.evaluate(() => { location.hash = "#pool/loud/0"; });
    await page.locator("#printed li", { hasText: '<img src=x onerror="window.owned = 1">' }).first().waitFor();
    await page.locator("#line-filter").fill("nothing has this");
    await until(() => ![...document.querySelectorAll("#printed li")].some((line) => line.checkVisibility()));
    await page.locator("#line-filter").fill("ONERROR");
    await until(() => [...document.querySelectorAll("#printed li")].some((line) => line.checkVisibility()));
    await page.locator("#pause").click();
    const printed = await page.locator("#printed li").count();
    await until(() => /Go on \(\d/.test(document.getElementById("pause").textContent));
    assert.equal(await page.locator("#printed li").count(), printed);
    await page.locator("#pause").click();
    await until((before) => document.querySelectorAll("#printed li").length > before, printed);
    await page.evaluate(() => { for (let at = 0; at < 3000; at += 1) print({ from: "x", text: String(at) }); });
    await until(() => document.querySelectorAll("#printed li").length === 1000);
    await page.evaluate(() => { location.hash = "#pool/web"; });
    await until(() => document.querySelectorAll("#printed li").length === 0);
    await page.locator("#event-filter").fill("web/0 ready");
    const kinds = await page.locator(".event:visible .kind").allInnerTexts();
    assert.ok(kinds.length > 0 && kinds.every((kind) => kind === "ready"), String(kinds));
    await page.locator("#event-filter").fill("");
    assert.equal(await page.evaluate(() => window.owned), undefined);
  },

  async "a roll, by keyboard alone, moves through the slots"() {
    await page.evaluate(() => {
      window.seen = new Set();
      const look = () => document.querySelectorAll('section[aria-label="Pool web"] .slots .box').forEach((box) => { if (!box.hidden) window.seen.add(box.className); });
      new MutationObserver(look).observe(document.querySelector('section[aria-label="Pool web"]'), { subtree: true, childList: true, attributes: true });
    });
    await tabTo("Roll web");
    await keys("Enter");
    await page.getByRole("dialog", { name: "Roll web?" }).waitFor();
    assert.match(await page.locator("#ask-does").innerText(), /^rotad roll web -c .*rotad\.toml$/);
    await keys("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    assert.equal(status("web").reload.state, "none");
    await keys("Enter", "Tab");
    await until(() => document.activeElement?.id === "ask-yes");
    await keys("Enter");
    await pool("web").locator(".roll").getByText("generation 2", { exact: false }).waitFor();
    await page.locator(".notice", { hasText: "done: generation 2, 4 workers replaced" }).waitFor();
    await until(() => [...document.querySelectorAll('section[aria-label="Pool web"] .slots .slot > .box:not(.also)')].every((box) => box.textContent === "2" && box.className.startsWith("box ready")));
    const seen = [...await page.evaluate(() => [...window.seen])].join(" | ");
    for (const state of [/starting/, /soaking/, /box ready new/, /stopping/]) assert.match(seen, state);
    await tabTo("Dismiss", "Shift+Tab");
    await keys("Enter");
    await calm();
  },

  async "one slot that was chosen is replaced"() {
    const replace = pool("web").getByRole("button", { name: "Replace" });
    assert.equal(await replace.count(), 0);
    await pool("web").getByRole("link", { name: "Slot 2:" }).click();
    await pool("web").getByRole("button", { name: "Replace web/2", exact: true }).waitFor();
    await pool("web").getByRole("link", { name: "Slot 1:" }).click();
    await pool("web").getByRole("button", { name: "Replace web/1", exact: true }).click();
    await page.getByRole("dialog", { name: "Replace web/1?" }).waitFor();
    assert.match(await page.locator("#ask-does").innerText(), /^rotad roll web\/1 -c .*rotad\.toml$/);
    const before = status("web").workers;
    await page.locator("#ask-yes").click();
    await page.locator(".notice:not(.info)", { hasText: "rotad roll web/1 -c" }).waitFor();
    // The old one finishes what it has.
    const after = status("web").workers.filter((one) => one.state === "ready");
    const same = (slot) => before.find((one) => one.slot === slot).pid === after.find((one) => one.slot === slot).pid;
    assert.deepEqual([0, 1, 2, 3].map(same), [true, false, true, true]);
    assert.ok(after.every((one) => one.generation === 2));
    await page.getByRole("button", { name: "Dismiss" }).click();
    await page.evaluate(() => { location.hash = ""; });
    await replace.waitFor({ state: "hidden" });
  },

  async "plots tell their values by keyboard"() {
    const plot = page.getByRole("slider", { name: /^Ready of web/ });
    await until(() => / at \d/.test(document.querySelector('[aria-label^="Ready of web"]').getAttribute("aria-valuetext")));
    await plot.focus();
    await keys("Home");
    assert.match(await plot.getAttribute("aria-valuetext"), /^\d of 4 at \d\d:\d\d:\d\d$/);
    assert.equal(await pool("web").locator(".plot .at").count() > 1, true);
    await keys("Escape");
  },

  async "a failed deploy is on top, with the worker's last lines"() {
    write("code", 'exit 3\nImportError: <script>window.owned = 1</script>');
    assert.equal(await fails("roll", "web"), 10);
    await says("web: generation 3 did not come up");
    await says("4 workers of generation 2 serve.");
    assert.equal(await now.locator("pre").innerText(), "ImportError: <script>window.owned = 1</script>");
    assert.equal(await page.evaluate(() => window.owned), undefined);
    assert.equal(await page.locator("script").count(), 1);
    assert.match(await page.locator("#said").innerText(), /did not come up/);
    await page.emulateMedia({ colorScheme: "dark" });
    await accessible("with a failed deploy, dark");
    await page.emulateMedia({ colorScheme: "light" });
    write("code", "ok\n3");
    rotad("roll", "web");
    await calm();
  },

  async "a crash loop says since when and why"() {
    write("flaky", "exit 4\nno route to the database");
    for (const worker of status("flaky").workers) process.kill(worker.pid, "SIGKILL");
    await says("flaky is in a crash loop: 0 of 2 ready since");
    await says("exited with 4");
    assert.match(await now.locator("pre").first().innerText(), /no route to the database/);
    await pool("flaky").locator(".box.backoff").first().waitFor();
    await accessible("in a crash loop, light");
    const first = /since (\S+)/.exec(await now.locator("h2").first().innerText())[1];
    await page.reload();
    await until((first) => document.querySelector("#now h2")?.textContent.includes(`since ${first}`), first);
    write("flaky", "ok\n1");
    await calm();
  },

  async "what is asked for is refused with another token, and not offered without one"() {
    const answer = (headers) => page.evaluate(async (headers) => (await fetch("/api/roll", { method: "POST", headers, body: '{"pools": ["web"]}' })).status, headers);
    assert.equal(await answer({}), 403);
    await page.evaluate(() => { location.hash = "#token=another-token-of-others"; });
    await pool("flaky").getByRole("button", { name: "Stop flaky" }).click();
    await page.locator("#ask-yes").click();
    await page.locator(".notice", { hasText: "rotad stop flaky" }).getByText("the token is another one", { exact: false }).waitFor();
    await page.getByRole("button", { name: "Dismiss" }).click();
    assert.equal(status("flaky").state, "ok");
    await page.evaluate((token) => { location.hash = `#token=${token}`; }, TOKEN);
    await pool("flaky").getByRole("button", { name: "Scale flaky" }).click();
    await page.locator("#ask-count").fill("3");
    assert.match(await page.locator("#ask-does").innerText(), /^rotad scale flaky 3 -c /);
    await page.locator("#ask-yes").click();
    await until(() => document.querySelectorAll('section[aria-label="Pool flaky"] .slot').length === 3);
    const other = await context.newPage();
    listen(other);
    await other.goto(ADDRESS);
    await other.locator(".pool .slot").first().waitFor();
    assert.equal(await other.locator(".acts button").count(), 0);
    assert.match(await other.locator("#hint").innerText(), /Actions need #token=/);
    await other.close();
  },

  async "it fits 360 pixels, light and dark"() {
    const ground = [];
    await page.setViewportSize({ width: 360, height: 740 });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 360, "nothing is wider than the screen");
      ground.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
    }
    assert.notEqual(ground[0], ground[1]);
    await accessible("with nothing wrong, at 360 pixels, dark");
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.emulateMedia({ colorScheme: "light" });
  },

  async "it goes on over a killed master, a stopped one, and a server that begins again"() {
    process.kill(Number(readFileSync("master.pid", "utf8")), "SIGKILL");
    await page.locator(".event .kind", { hasText: "master-restored" }).waitFor();
    await until(() => document.getElementById("about").textContent.includes("1 master died before"));
    await calm();
    rotad("stop");
    await says("No master since");
    rotad("start");
    await calm();
    await end("SIGKILL");
    await says("No connection to rotad serve since");
    await serve();
    await calm();
  },

  async "it asks for nothing while it is hidden"() {
    const show = (hidden) => page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    await show(true);
    assert.equal(await page.evaluate(() => stream === null && log.source === null), true);
    rotad("stop", "flaky");
    await show(false);
    await says("flaky is stopped");
  },
};

let failed = 0;
for (const [name, step] of Object.entries(steps)) {
  const begun = Date.now();
  try {
    await step();
    assert.deepEqual(wrong.splice(0), [], "errors in the page");
    console.log(`ok ${name} (${Date.now() - begun} ms)`);
  } catch (error) {
    failed = 1;
    console.log(`FAILED ${name}: ${error.stack}`);
    console.log(await page.locator("#now").innerText().catch(() => ""), wrong);
    break;
  }
}
await context.close();
await end("SIGTERM");
process.exit(failed);
