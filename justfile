# just build | test | chaos SECONDS SEED

build:
    cargo build --release --locked

# The tests of the core, of the files, and all that run the real binary.
test:
    tests/all.sh

# Does to a master whatever operators, deploys, strangers and disks do; prints a table, fails if there is a violation.
chaos SECONDS="60" SEED="1":
    ROTAD_CHAOS_SECONDS={{SECONDS}} ROTAD_CHAOS_SEED={{SEED}} cargo test --locked --test chaos
