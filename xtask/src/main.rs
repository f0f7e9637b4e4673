//! `cargo xtask <command>`: everything repeatable around the code. Each command is one module; none of them
//! is needed to build or use Triax, and nothing in Triax depends on this crate.
#![forbid(unsafe_code)]

mod bench;
mod clients;
mod cloud;
mod command;
mod deny;
mod fuzz;
mod golden;
mod lint;
mod lm_eval;
mod python;
mod smollm2;
mod test;
mod tidy;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything repeatable around Triax's code")]
enum Xtask {
    /// Install what the tests need, then run all of them (documentation tests included).
    Test(test::Options),
    /// Real clients against `triax serve` (`test --clients`): openai, llm, schemathesis, a browser.
    Clients(python::Options),
    /// Our evaluator beside lm-evaluation-harness, item by item, through `triax serve`.
    LmEval(lm_eval::Options),
    /// Logits and greedy texts of SmolLM2-135M beside llama.cpp's and beside exact arithmetic; builds llama.cpp once.
    Smollm2(python::Options),
    /// Formatting, clippy, documentation and `tidy`, every warning an error.
    Lint,
    /// The project's own rules: the arrow between crates, licences, first lines, lengths, sizes.
    Tidy,
    /// Make the golden files of the tests anew with PyTorch and transformers.
    Golden(python::Options),
    /// Side-by-side runs against peers; appends to bench/results.
    Bench(bench::Options),
    /// Run the readers of foreign files on inputs that libFuzzer invents.
    Fuzz(fuzz::Options),
    /// `cargo deny check`, where cargo-deny is installed.
    Deny,
}

fn main() -> std::process::ExitCode {
    let done = match Xtask::parse() {
        Xtask::Test(options) => test::run(&options),
        Xtask::Clients(options) => clients::run(&options),
        Xtask::LmEval(options) => lm_eval::run(&options),
        Xtask::Smollm2(options) => smollm2::run(&options),
        Xtask::Lint => lint::run(),
        Xtask::Tidy => tidy::run(),
        Xtask::Golden(options) => golden::run(&options),
        Xtask::Bench(options) => bench::run(&options),
        Xtask::Fuzz(options) => fuzz::run_targets(&options),
        Xtask::Deny => deny::run(),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // One line: the place is a file or a command, never a place in this program.
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
