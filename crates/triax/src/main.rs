//! The `triax` program: parses the command line, runs one command, shows its failure.
#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod console;
mod demo;
mod failure;
mod interrupt;
mod machine;

use arguments::{Arguments, Bench, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    // clap shows its own errors, and ends with code 2.
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Bench(Bench::Train(arguments)) => commands::bench_train::run(&arguments),
        Command::Bench(Bench::Gemm(arguments)) => commands::bench_gemm::run(&arguments),
    }
}
