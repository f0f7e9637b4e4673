//! Ranks as processes: this binary starts itself under `mpirun` and checks that the random programs leave
//! the bits of the oracle (those of `local`, see `conformance.rs`), and that a run whose rank is silent,
//! dead, confused or started differently ends soon, with one line that names it. Skipped without `mpirun`.

#[path = "script/mod.rs"]
mod script;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use script::Random;
use triax_comm::mpi::MpiRank;
use triax_comm::{Collective, CommError, Group, Options, launch, verify_same};

/// Names the case to the ranks.
const CASE: &str = "TRIAX_MPI_CASE";

/// Case, processes, what the output must contain, whether the run succeeds.
const CASES: &[(&str, usize, &[&str], bool)] = &[
    ("alone", 1, &["every bit"], true),
    ("bits 1", 2, &["every bit"], true),
    ("bits 2", 3, &["every bit"], true),
    ("bits 3", 4, &["every bit"], true),
    ("bits 4", 8, &["every bit"], true),
    (
        "silent",
        3,
        &["s in vain in the barrier step 1 (world #1): rank 1 last began the barrier start"],
        false,
    ),
    ("dead", 3, &["rank 0 found dead: rank 1 last began the barrier start (world #0)"], false),
    ("computing", 3, &["rank 1 found dead: rank 2 last began the barrier start (world #0)"], false),
    ("dropped", 3, &["a rank ended early: rank 1 last began the barrier start (world #0)"], false),
    ("early", 3, &["rank 1: cannot read its data"], false),
    ("left", 3, &["can never finish the barrier step 1 (world #1): rank 1 left"], false),
    ("mismatch", 2, &["layer 1 (8 f32, world #0)", "layer 2 (9 f32, world #0)"], false),
    ("different", 3, &["ranks were started differently: run file: 2 of 3 have aa, rank 1 bb"], false),
];

fn main() -> ExitCode {
    match std::env::var(CASE) {
        Ok(case) => rank(&case),
        Err(_) => launch_all(),
    }
}

fn launch_all() -> ExitCode {
    if Command::new("mpirun").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: no mpirun (on Debian: openmpi-bin)");
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (case, processes, expected, succeeds) in CASES {
        let began = Instant::now();
        let output = Command::new("timeout")
            .args(["60", "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n"])
            .arg(processes.to_string())
            // Ranks finish what they have to say: mpirun ends the others at once when one dies, first politely.
            .args(["sh", "-c", "trap '' TERM; exec \"$0\""])
            .arg(std::env::current_exe().expect("this program has a path"))
            .env(CASE, case)
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .stdin(Stdio::null())
            .output()
            .expect("timeout and mpirun start");
        let said =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        // Both sides of a disagreement find it.
        let once = said.matches("found: ").count() <= if *case == "mismatch" { 2 } else { 1 };
        let right = output.status.success() == *succeeds
            && once
            && began.elapsed() < Duration::from_secs(50)
            && expected.iter().all(|words| said.contains(words));
        println!(
            "test {case} with {processes} ... {} ({:.1} s)",
            if right { "ok" } else { "FAILED" },
            began.elapsed().as_secs_f64()
        );
        if !right {
            println!("expected {expected:?} and {succeeds}; {}\n{said}", output.status);
            failed += 1;
        }
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed",
        if failed == 0 { "ok" } else { "FAILED" },
        CASES.len() - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rank(case: &str) -> ExitCode {
    let launched =
        launch::from_environment().expect("mpirun sets sane variables").expect("mpirun sets variables");
    let timeout = Duration::from_secs(if case == "silent" { 1 } else { 40 });
    let mut comm =
        MpiRank::start(Options { timeout }, |error| eprintln!("found: {error}")).expect("MPI starts");
    assert_eq!((comm.rank(), comm.world()), (launched.rank, launched.world));
    let result = match case.split_once(' ') {
        Some(("bits", seed)) => bits(&mut comm, seed.parse().expect("a seed")),
        _ if case == "alone" => bits(&mut comm, 0),
        _ => trouble(&mut comm, case),
    };
    if let Err(error) = result {
        eprintln!("ended: {error}");
        return ExitCode::FAILURE;
    }
    if case == "dropped" && comm.rank() == 1 {
        return ExitCode::FAILURE;
    }
    comm.leave().expect("nothing is under way");
    ExitCode::SUCCESS
}

/// Several random programs against the oracle.
fn bits(comm: &mut MpiRank, seed: u64) -> Result<(), CommError> {
    for seed in 10 * seed..10 * seed + 6 {
        let program = script::program(comm.world(), 5, seed);
        let order = &mut Random::new(seed ^ comm.rank() as u64);
        let found = script::run(comm, &program, seed, order)?;
        let expected = script::oracle(comm.world(), &program, seed);
        if let Some(difference) = script::difference(comm.rank(), &found, &expected) {
            return Err(comm.abort(&format!("{difference} in {program:?}")));
        }
    }
    println!("every bit on rank {} with {}", comm.rank(), comm.describe());
    Ok(())
}

fn die() {
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
}

fn trouble(comm: &mut MpiRank, case: &str) -> Result<(), CommError> {
    let group = Group::world(comm.world(), comm.rank());
    let odd = comm.rank() == 1;
    match case {
        "mismatch" => {
            use triax_tensor::{DType, Device as _, View, reference::Reference};
            let mut device = Reference::new();
            device.allocate(4096, 0).expect("a page");
            let (cols, what) = if odd { (9, "layer 2") } else { (8, "layer 1") };
            let view = View { offset: 0, rows: 1, cols, dtype: DType::F32 };
            let handle = comm.all_reduce(&mut device, &group, view, what)?;
            return comm.wait(&mut device, handle);
        }
        "different" => return verify_same(comm, &[("run file", if odd { "bb" } else { "aa" })]),
        _ => {}
    }
    comm.barrier(&group, "start")?;
    match case {
        "silent" if odd => std::thread::sleep(Duration::from_secs(30)),
        "dead" if odd => die(),
        // The others are busy; nobody waits when it happens.
        "computing" if comm.rank() == 2 => die(),
        "computing" => std::thread::sleep(Duration::from_secs(20)),
        "dropped" if odd => return Ok(()),
        "early" if odd => return Err(comm.abort("rank 1: cannot read its data")),
        "left" if odd => return Ok(()),
        _ => {}
    }
    comm.barrier(&group, "step 1")
}
