import java.io.*;
import java.net.*;
import java.nio.channels.*;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.*;

/** A web server with a thread for each connection, on the listener that is its standard input. */
public class Server {
    /** How long a kept connection without a request stays open after TERM: its client may be about to send one. */
    static final long LINGER_MS = 2000;

    /** What has to end before the program exits: the accepting thread, each connection, and the hook that waits. */
    static final Phaser users = new Phaser(2);
    static volatile long leavingAt;   // when TERM came, in ms; 0: not yet

    public static void main(String[] arguments) throws IOException, InterruptedException {
        if (!(System.inheritedChannel() instanceof ServerSocketChannel listener))
            throw new IOException("standard input is no listening socket; rotad.toml: stdin = \"listen:http\"");
        // One connection wakes several workers, and one of them gets it: the others must not block in accept().
        listener.configureBlocking(false);
        Selector selector = Selector.open();
        listener.register(selector, SelectionKey.OP_ACCEPT);
        // On TERM the JVM runs this hook, and exits (with 143) when it returns. It does not close the listener: with an
        // inherited one Java closes standard output and error as well, and the last lines would not be in the log.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            leavingAt = now();
            selector.wakeup();
            users.arriveAndAwaitAdvance();
        }));
        ExecutorService threads = Executors.newCachedThreadPool();
        while (leavingAt == 0) {
            selector.select();
            selector.selectedKeys().clear();
            SocketChannel client = accept(listener);
            if (client == null) continue;
            users.register();
            threads.execute(() -> {
                try (client) { converse(client.socket()); }
                catch (IOException gone) { /* the client */ }
                finally { users.arriveAndDeregister(); }
            });
        }
        users.arriveAndDeregister();
    }

    static SocketChannel accept(ServerSocketChannel listener) throws InterruptedException {
        try {
            return listener.accept();
        } catch (IOException tooManyFiles) {
            Thread.sleep(10);
            return null;
        }
    }

    /** Answers requests until the client closes, or TERM has come. */
    static void converse(Socket socket) throws IOException {
        socket.setSoTimeout(100);
        StringBuilder text = new StringBuilder();
        for (String head; (head = nextHead(socket, text)) != null; ) {
            boolean close = leavingAt > 0 || head.toLowerCase().contains("connection: close");
            String body = ProcessHandle.current().pid() + " " + System.getenv("ROTAD_GENERATION") + " java\n";
            String answer = "HTTP/1.1 200 OK\r\nContent-Length: " + body.length()
                + "\r\nConnection: " + (close ? "close" : "keep-alive") + "\r\n\r\n" + body;
            socket.getOutputStream().write(answer.getBytes(StandardCharsets.ISO_8859_1));
            if (close) return;
        }
    }

    /** The head of the next request (a GET, so nothing follows it); null when the connection is over. */
    static String nextHead(Socket socket, StringBuilder text) throws IOException {
        byte[] bytes = new byte[4096];
        while (text.length() < 16384) {
            int end = text.indexOf("\r\n\r\n");
            if (end >= 0) {
                String head = text.substring(0, end + 4);
                text.delete(0, end + 4);
                return head;
            }
            try {
                int read = socket.getInputStream().read(bytes);
                if (read < 0) return null;
                text.append(new String(bytes, 0, read, StandardCharsets.ISO_8859_1));
            } catch (SocketTimeoutException idle) {
                if (leavingAt > 0 && text.length() == 0 && now() > leavingAt + LINGER_MS) return null;
            }
        }
        return null;
    }

    static long now() {
        return System.nanoTime() / 1_000_000;
    }
}
