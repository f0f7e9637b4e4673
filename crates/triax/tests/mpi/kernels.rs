//! Ranks on machines that compute by different kernels: the same run file with `kernel = "auto"`, other roundings. They
//! are told before anything is planned or allocated.

use super::{TRIAX, mpirun, prepare, said, turn};
use std::process::Command;

/// What the launch of these ranks, whose words follow one another, says when it is refused.
fn refused(folder: &std::path::Path, words: &[&str]) -> String {
    let output = mpirun(folder).args(words).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.matches("ranks were started differently").count(), 1, "{said}");
    assert!(said.contains("--set device.kernel="), "what would work: {said}");
    assert!(!said.contains(" parameters on "), "nothing was planned: {said}");
    assert!(!folder.join("runs").exists(), "nothing was written");
    said
}

#[test]
fn ranks_that_compute_by_different_kernels_are_named() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, "data = 3", 5);
    let alike = ["-n", "2", TRIAX, "train", "run.toml", "--set", "device.kernel=portable", ":"];
    let reference = ["-n", "1", TRIAX, "train", "run.toml", "--set", "device.kind=reference"];
    let said = refused(folder, &[&alike[..], &reference].concat());
    assert!(said.contains("kernel: 2 of 3 have Portable, rank 2 the reference's"), "{said}");
}

/// Valgrind stands for an older machine: its processor has no AVX-512, and every run file's "auto" is another kernel.
#[test]
fn the_same_command_on_a_machine_with_fewer_instructions_is_refused() {
    let Some(_turn) = turn() else { return };
    if Command::new("valgrind").arg("--version").output().is_err() || !has_avx512() {
        println!("skipped: no valgrind (on Debian: valgrind), or this machine has no more than it shows");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, "data = 2", 5);
    let older = ["valgrind", "--tool=none", "--quiet", TRIAX];
    let newer = ["-n", "1", TRIAX, "train", "run.toml", ":", "-n", "1"];
    let said = refused(folder, &[&newer[..], &older, &["train", "run.toml"]].concat());
    assert!(said.contains("differently: kernel: 1 of 2 have ") && said.contains(", rank 1 Avx2"), "{said}");
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx512() -> bool {
    false
}
