//! The `triax` program: parses the command line, runs one command, shows its failure.
#![forbid(unsafe_code)]

mod arguments;
mod chat_template;
mod commands;
mod console;
mod demo;
mod failure;
mod files;
mod interrupt;
mod layout;
mod machine;
mod processes;
mod random_steps;
mod source;
mod supervise;
mod vocabulary;

use arguments::{Arguments, Bench, Command, ExportTo, ImportFrom, Verify};
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
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Curate(arguments) => commands::curate::run(&arguments),
        Command::Cluster(role) => commands::cluster::run(&role),
        Command::Tokenize(arguments) => commands::tokenize::run(&arguments),
        Command::Plan(arguments) => commands::plan::run(&arguments),
        Command::Verify(Verify::Layouts(arguments)) => commands::verify::layouts(&arguments),
        Command::Verify(Verify::Checkpoint { folder, json }) => commands::verify::checkpoint(&folder, json),
        Command::Train(arguments) => commands::train::run(&arguments),
        Command::Generate(arguments) => commands::generate::run(&arguments),
        Command::Eval(arguments) => commands::eval::run(&arguments),
        Command::Serve(arguments) => commands::serve::run(&arguments),
        Command::Import(arguments) => {
            let ImportFrom::Hf { folder, out, json } = arguments.from;
            commands::hugging_face::import(&folder, &out, json)
        }
        Command::Export(arguments) => match arguments.to {
            ExportTo::Hf { checkpoint, out, dtype, json } => {
                commands::hugging_face::export(&checkpoint, &out, dtype, json)
            }
            ExportTo::Gguf { model, out, dtype, tokenizer, json } => {
                commands::gguf::export(&model, &out, dtype, tokenizer.as_deref(), json)
            }
        },
        Command::Bench(Bench::Train(arguments)) => commands::bench_train::run(&arguments),
        Command::Bench(Bench::Gemm(arguments)) => commands::bench_gemm::run(&arguments),
        Command::Bench(Bench::Curate(arguments)) => commands::bench_curate::run(&arguments),
        Command::Bench(Bench::Tokenize(arguments)) => commands::bench_tokenize::run(&arguments),
        Command::Bench(Bench::Decode(arguments)) => commands::bench_decode::run(&arguments),
    }
}
