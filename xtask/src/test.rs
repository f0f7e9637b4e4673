//! `cargo xtask test`: installs the programs the tests need, then runs every test of the workspace in the
//! release profile, and those of ranks as MPI processes where MPI can be had. cargo's output is passed on as
//! it comes, with one addition: what a passing test printed about skipping itself appears just above the
//! `test result:` line of its binary.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::{self, cargo, install, installed, may_install};
use crate::{clients, cloud, python};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Explore all orders in which the threads of a collective can meet, too: a build of its own with loom.
    #[arg(long)]
    explore: bool,
    /// Also run the tests of ranks as MPI processes, on one host and on two made of network namespaces; installs MPI
    /// where it can. Builds the program once more, with MPI.
    #[arg(long)]
    mpi: bool,
    /// Also run the tests of object stores against servers of S3's, Google's and Azure's protocols, which are installed
    /// under target/. Builds the library once more, with the stores.
    #[arg(long)]
    cloud: bool,
    /// Also run the tests of curation on a cluster: a build of its own with DataFusion and Ballista, under
    /// target/cluster, not optimised.
    #[arg(long)]
    cluster: bool,
    /// Also run real clients against `triax serve`, as `cargo xtask clients` does; installs them under target/.
    #[arg(long)]
    clients: bool,
    /// All of the grids that are otherwise drawn from: kills at every operation of a save.
    #[arg(long)]
    all: bool,
    /// Also run the tests of the kernels, the arena and packing under AddressSanitizer: a build of its own.
    #[arg(long)]
    sanitize: bool,
    /// Passed on to `cargo test`, for example a package and a test's name: `-- -p triax-data damaged`.
    #[arg(last = true)]
    cargo: Vec<String>,
}

/// Programs beside the Rust toolchain: name, Debian package, who needs it.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("cc", "build-essential", "linking, and the C sources of zstd and libdeflate"),
    ("git", "git", "tidy's list of files"),
];

/// Debian packages of MPI and of what its bindings are made with.
const MPI: &[&str] = &["libopenmpi-dev", "openmpi-bin", "libclang-dev", "iproute2"];

pub(crate) fn run(options: &Options) -> Result<()> {
    install_programs()?;
    if std::env::var_os("TRIAX_TEST_DATA").is_none() {
        println!("TRIAX_TEST_DATA is not set: tests on real text and published models skip themselves");
    }
    let selected = options.cargo.iter().any(|word| word == "-p" || word.starts_with("--package"));
    let mut command = cargo(&["test", "--release", "--no-fail-fast"]);
    if !selected {
        command.arg("--workspace");
    }
    command.args(&options.cargo).args(["--", "--show-output"]);
    if options.all {
        command.env("TRIAX_ALL", "1");
    }
    run_tests(&mut command)?;
    if options.mpi && mpi_is_there()? {
        // With the features of the whole workspace, so that only what knows MPI is built anew.
        let mut command = cargo(&["test", "--release", "--no-fail-fast", "--workspace", "--features", "mpi"]);
        run_tests(command.args(["--test", "mpi", "--", "--show-output"]))?;
    }
    if options.cloud {
        let servers = cloud::servers()?;
        let mut command =
            cargo(&["test", "--release", "--no-fail-fast", "--workspace", "--features", "cloud"]);
        servers.iter().for_each(|server| server.environment(&mut command));
        run_tests(command.args(["--test", "objects", "--", "--show-output"]))?;
    }
    if options.cluster {
        let features = ["--features", "triax/cluster", "--lib", "--test", "cluster"];
        let mut command = cargo(&["test", "--profile", "cluster", "--no-fail-fast"]);
        command.args(["-p", "triax-curate", "-p", "triax"]).args(features);
        // The part of their names that tests of a cluster share.
        command.args(["cluster", "--", "--show-output"]);
        command.env("CARGO_TARGET_DIR", command::target().join("cluster"));
        run_tests(&mut command)?;
    }
    if options.sanitize {
        sanitize()?;
    }
    if options.clients {
        clients::run(&python::Options::default())?;
    }
    if options.explore {
        let mut command = cargo(&["test", "--release", "-p", "triax-comm", "--lib", "explored"]);
        command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", command::target().join("loom"));
        run_tests(&mut command)?;
    }
    Ok(())
}

/// The unit and conformance tests of the crate whose kernels are unsafe, with every access checked. The runtime comes
/// with the stable toolchain; the flag that asks for it does not. Documentation tests would need it too.
fn sanitize() -> Result<()> {
    let mut command =
        cargo(&["test", "--release", "--no-fail-fast", "-p", "triax-tensor", "-p", "triax-comm"]);
    command.args(["--target", TARGET, "--lib", "--tests", "--", "--show-output"]);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    command.env("CARGO_TARGET_DIR", command::target().join("address-sanitizer"));
    run_tests(&mut command)
}

/// Names the target, so that build scripts and macros are built without the sanitizer.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn run_tests(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", command::show(command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let printed = child.stdout.take().expect("stdout was piped above");
    pass_on(BufReader::new(printed), std::io::stdout().lock())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("some tests failed: {status}");
    }
    Ok(())
}

fn install_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(name, ..)| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let reasons: Vec<_> = missing.iter().map(|(name, _, reason)| format!("{name} ({reason})")).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package, _)| *package).collect();
    if !may_install()? {
        bail!("missing: {}; install them first (on Debian: {})", reasons.join(", "), packages.join(" "));
    }
    println!("installing {}", reasons.join(", "));
    install(&packages)
}

/// Whether MPI, its compiler and its launcher are here, after trying to install them; says so if not.
fn mpi_is_there() -> Result<bool> {
    let complete = || installed("mpicc") && installed("mpirun") && libclang_is_there();
    if !complete() && may_install()? {
        println!("installing MPI and libclang (ranks as processes): {}", MPI.join(" "));
        if let Err(error) = install(MPI) {
            println!("{error:#}");
        }
    }
    if !complete() {
        println!("skipped: tests of ranks as MPI processes (on Debian: {})", MPI.join(" "));
    }
    Ok(complete())
}

/// Whether bindgen will find libclang where distributions put it.
fn libclang_is_there() -> bool {
    let holds_it = |folder: &Path| {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.into_iter().any(|name| {
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-") && !name.contains("cpp")
        })
    };
    let versions = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.path().join("lib")).collect();
    folders.extend(["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu"].map(PathBuf::from));
    std::env::var_os("LIBCLANG_PATH").is_some() || folders.iter().any(|folder| holds_it(folder))
}

/// Copies libtest's output line by line, leaving out what passing tests printed except lines that begin
/// with `skip`, each of which is shown with the test's name.
fn pass_on(printed: impl BufRead, mut shown: impl Write) -> Result<()> {
    let (mut inside_successes, mut test, mut skipped) = (false, String::new(), Vec::new());
    for line in printed.lines() {
        let line = line?;
        match line.as_str() {
            "successes:" => inside_successes = true,
            "failures:" => inside_successes = false,
            _ if line.starts_with("test result: ") => {
                inside_successes = false;
                for skip in skipped.drain(..) {
                    writeln!(shown, "{skip}")?;
                }
            }
            _ => {}
        }
        if !inside_successes {
            writeln!(shown, "{line}")?;
        } else if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            name.clone_into(&mut test);
        } else if line.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("skip")) {
            skipped.push(format!("{test}: {}", line.trim()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_test_is_named_above_its_summary_and_other_output_is_left_out() {
        let printed = "running 2 tests\ntest a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- a stdout ----\nchatter\n\n\
                       ---- b stdout ----\nskipped: no data\n\n\nsuccesses:\n    a\n    b\n\ntest result: ok. 2 passed\n";
        let mut shown = Vec::new();
        pass_on(printed.as_bytes(), &mut shown).unwrap();
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "running 2 tests\ntest a ... ok\ntest b ... ok\n\nb: skipped: no data\ntest result: ok. 2 passed\n"
        );
    }

    #[test]
    fn failures_are_passed_on_whole() {
        let printed = "successes:\n\nsuccesses:\n    a\n\nfailures:\n\n---- b stdout ----\npanicked\n\nfailures:\n    b\n\n\
                       test result: FAILED. 1 passed; 1 failed\n";
        let mut shown = Vec::new();
        pass_on(printed.as_bytes(), &mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("---- b stdout ----\npanicked"), "{shown}");
        assert!(shown.ends_with("test result: FAILED. 1 passed; 1 failed\n"), "{shown}");
    }
}
