//! Two hosts with a cable between them: network namespaces, each with its own host name and process numbers, joined by
//! a pair of virtual interfaces. Ranks on both have the bits of threads; a host that falls silent ends the run within
//! the time allowed. Skipped where namespaces are not allowed.
//!
//! ```text
//! namespace a (mpirun, ranks 0 and 1)  10.77.0.1 ── veth pair ── 10.77.0.2  namespace b (ranks 2 and 3)
//! ```

use super::{TRIAX, as_root, log, manifest, prepare, said, triax, turn};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Removed, with all that runs in them, on drop.
struct Hosts {
    a: String,
    b: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output =
        Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Hosts {
    fn new() -> Result<Self, String> {
        let id = std::process::id();
        let hosts = Self { a: format!("triax-a-{id}"), b: format!("triax-b-{id}") };
        let (a, b, cable) = (&hosts.a, &hosts.b, format!("tx{id}"));
        for arguments in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("link add {cable}a netns {a} type veth peer name {cable}b netns {b}"),
            format!("-n {a} addr add 10.77.0.1/24 dev {cable}a"),
            format!("-n {b} addr add 10.77.0.2/24 dev {cable}b"),
            format!("-n {a} link set {cable}a up"),
            format!("-n {b} link set {cable}b up"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
        ] {
            ip(&arguments)?;
        }
        let alone =
            Command::new("unshare").args(["--uts", "--pid", "--fork", "--mount-proc", "true"]).output();
        match alone {
            Ok(output) if output.status.success() => Ok(hosts),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("unshare: {error}")),
        }
    }

    /// A command on host a that starts ranks on both.
    fn mpirun(&self, folder: &Path) -> Command {
        // Stands for ssh: the host, then the words of a command for a shell. What it starts stays with it (below):
        // a host's processes end with their first.
        let agent = folder.join("agent");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = 10.77.0.2 ] || {{ echo \"no way to $1\" >&2; exit 1; }}\nshift\n\
             exec ip netns exec {} unshare --uts --pid --fork --kill-child --mount-proc \
             sh -c \"hostname host-b; $*\"\n",
            self.b
        );
        fs::write(&agent, script).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60", "ip", "netns", "exec", &self.a]);
        command.args(["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args([
            "sh",
            "-c",
            "hostname host-a; exec \"$@\"",
            "sh",
            "mpirun",
            "--leave-session-attached",
            "-n",
            "4",
            "--bind-to",
            "none",
        ]);
        command.args(["--host", "10.77.0.1:2,10.77.0.2:2", "--mca", "plm_rsh_agent"]).arg(&agent);
        for (name, value) in [
            ("plm_rsh_no_tree_spawn", "1"),
            ("btl", "tcp,vader,self"),
            ("btl_tcp_if_include", "10.77.0.0/24"),
            ("oob_tcp_if_include", "10.77.0.0/24"),
        ] {
            command.args(["--mca", name, value]);
        }
        command.arg(TRIAX).current_dir(folder).stdin(Stdio::null());
        as_root(&mut command);
        command
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.a, &self.b] {
            let inside = Command::new("ip").args(["netns", "pids", host]).output();
            let inside = inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            for process in inside.unwrap_or_default().split_whitespace() {
                let _ = Command::new("sh")
                    .args(["-c", &format!("kill -9 {process}")])
                    .stderr(Stdio::null())
                    .status();
            }
            // What was not made cannot be removed.
            let _ = ip(&format!("netns del {host}"));
        }
    }
}

fn hosts() -> Option<Hosts> {
    match Hosts::new() {
        Ok(hosts) => Some(hosts),
        Err(reason) => {
            println!("skipped: no two hosts of network namespaces here: {reason}");
            None
        }
    }
}

#[test]
fn ranks_on_two_hosts_have_the_bits_of_threads() {
    let Some(_turn) = turn() else { return };
    let Some(hosts) = hosts() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, "tensor = 2\ndata = 2\nzero = 1\nsequence_parallel = true", 7);
    triax(folder, &["train", "run.toml", "--out", "threads"]);
    let output = hosts.mpirun(folder).args(["train", "run.toml", "--out", "processes"]).output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("OMPI_COMM_WORLD_LOCAL_SIZE=2"), "two ranks on a host: {said}");
    assert_eq!(log(&folder.join("processes")), log(&folder.join("threads")));
    assert_eq!(manifest(&folder.join("processes")), manifest(&folder.join("threads")));
}

#[test]
fn a_host_that_falls_silent_ends_the_run_in_time() {
    let Some(_turn) = turn() else { return };
    let Some(hosts) = hosts() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, "tensor = 2\ndata = 2", 1_000_000);
    let mut child = hosts
        .mpirun(folder)
        .args(["train", "run.toml", "--json", "--set", "layout.peer_timeout=3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..9 {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the run ended by itself");
    }
    // The cable is pulled.
    let cable = format!("tx{}b", std::process::id());
    ip(&format!("-n {} link set {cable} down", hosts.b)).unwrap();
    let began = Instant::now();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("the run ends: ") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "nobody said anything");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(
        line.contains("s in vain in the ") && (line.contains("rank 2 ") || line.contains("rank 3 ")),
        "{line}"
    );
    println!("after {:.1} s: {}", took.as_secs_f64(), line.trim());
    // mpirun itself waits for the other host's daemon: what is left ends with the hosts.
    drop(hosts);
    let _ = said.read_to_end(&mut Vec::new());
    let _ = child.wait();
}
