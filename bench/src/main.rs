//! Benchmarks that anyone can run: `cargo run --release --manifest-path bench/Cargo.toml [-- WHAT]`.
//!
//! WHAT is `session`, `events`, `relay`, `idle`, or nothing for all; numbers after `idle` say how many sessions. Everything stays on loopback. Compared figures come
//! from the same run, alternating, so that what else the machine does falls on both.

mod bare;
mod events;
mod idle;
mod mesh;
mod relay;
mod session;
mod usage;

fn main() -> anyhow::Result<()> {
    let what: Vec<String> = std::env::args().skip(1).collect();
    if what.iter().any(|w| w == idle::COMMAND) {
        return idle::serve();
    }
    let (numbers, what): (Vec<String>, Vec<String>) =
        what.into_iter().partition(|w| w.parse::<usize>().is_ok());
    let sessions: Vec<usize> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
    let wants = |name: &str| what.is_empty() || what.iter().any(|w| w == name);
    if let Some(unknown) = what.iter().find(|w| !["session", "events", "relay", "idle"].contains(&w.as_str()))
    {
        anyhow::bail!("no benchmark is called {unknown}; there are: session, events, relay, idle");
    }
    if wants("session") {
        session::run()?;
    }
    if wants("events") {
        events::run()?;
    }
    if wants("relay") {
        relay::run()?;
    }
    if wants("idle") {
        idle::run(&sessions)?;
    }
    Ok(())
}
