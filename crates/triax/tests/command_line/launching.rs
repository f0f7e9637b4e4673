//! The scripts in `recipes/launch`, run as they stand with stand-ins for Slurm's and Kubernetes' own programs: their
//! flags and variables are read by this program's arguments and by its search for a launcher. And the page about them.

use super::{errors, triax};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use yaml_rust2::{Yaml, YamlLoader};

const RUN_FILE: &str = "[model]\nlayers = 4\nhidden = 32\nheads = 2\nvocab = 300\nsequence = 32\n\
    [data]\nblend = [{ path = \"tokens/text\" }]\n[train]\nglobal_batch = 32\nstop = \"3 steps\"\n\
    [layout]\ntensor = 2\npipeline = 2\n";

fn from_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Puts a program on the path of `folder/bin`.
fn stand_in(folder: &Path, name: &str, script: &str) {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join(name), format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A launcher that starts the first rank alone, with the variables of the real one.
fn launcher(folder: &Path, name: &str, variables: &str) {
    let script = format!(
        "echo \"$*\" > launched\nranks=$(echo \"$*\" | sed -E 's/.*(--ntasks=|-n )([0-9]+).*/\\2/')\n\
         until [ \"${{1##*/}}\" = triax ]; do shift; done\nexec env {variables} \"$@\"\n"
    );
    stand_in(folder, name, &script);
}

fn shell(folder: &Path) -> Command {
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_triax"), folder.join("bin/triax")).unwrap();
    let mut command = Command::new("bash");
    let path = std::env::var("PATH").unwrap();
    command
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.join("bin").display()))
        .env("HOME", folder);
    command
}

/// The run got as far as the first rank, which found its launcher and knew all flags; there are no other ranks to meet.
fn came_to_the_first_rank(folder: &Path, output: &Output, found: &str) {
    let said = errors(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(found), "{said}");
    assert!(said.contains("this build has no MPI") || said.contains("but MPI says rank 0 of 1"), "{said}");
    assert!(!folder.join("runs").exists(), "nothing was started");
}

fn is_well_formed(script: &str) {
    let output = Command::new("bash").args(["-n", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}

#[test]
fn the_batch_script_for_slurm_starts_ranks_that_find_srun() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let script = fs::read_to_string(from_root("recipes/launch/slurm.sbatch")).unwrap();
    is_well_formed(&script);
    let asked: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix("#SBATCH --")).collect();
    let ntasks = asked.iter().find_map(|line| line.strip_prefix("ntasks=")).expect("it asks for tasks");
    assert!(asked.contains(&"no-kill"), "the allocation outlives a node");
    assert!(
        asked.iter().any(|line| line.starts_with("signal=B:USR1@")),
        "the supervisor hears of the time limit"
    );
    launcher(
        folder,
        "srun",
        "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_STEP_NUM_TASKS=$ranks SLURM_JOB_ID=9",
    );
    fs::write(folder.join("run.toml"), RUN_FILE).unwrap();
    let output = shell(folder)
        .arg(from_root("recipes/launch/slurm.sbatch"))
        .arg("run.toml")
        // What a batch script is given.
        .envs([
            ("SLURM_JOB_ID", "9"),
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", ntasks),
            ("SLURM_CPUS_PER_TASK", "8"),
        ])
        .output()
        .unwrap();
    let found = format!(
        "this is rank 0 of {ntasks}, local rank 0, from srun (SLURM_PROCID=0, SLURM_STEP_NUM_TASKS={ntasks}, SLURM_LOCALID=0)"
    );
    came_to_the_first_rank(folder, &output, &found);
    let launched = fs::read_to_string(folder.join("launched")).unwrap();
    assert!(launched.starts_with(&format!("--ntasks={ntasks} --cpus-per-task=8 --mpi=pmix")), "{launched}");
}

/// The fields of Kubernetes' API (batch/v1, v1) that the manifest uses, by path; `[]` is an item of a list, and what ends
/// in `*` holds names of one's own.
const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata.name",
    "spec.clusterIP",
    "spec.publishNotReadyAddresses",
    "spec.selector.*",
    "spec.completionMode",
    "spec.completions",
    "spec.parallelism",
    "spec.backoffLimit",
    "spec.successPolicy.rules[].succeededIndexes",
    "spec.template.metadata.labels.*",
    "spec.template.spec.subdomain",
    "spec.template.spec.restartPolicy",
    "spec.template.spec.terminationGracePeriodSeconds",
    "spec.template.spec.containers[].name",
    "spec.template.spec.containers[].image",
    "spec.template.spec.containers[].command[]",
    "spec.template.spec.containers[].args[]",
    "spec.template.spec.containers[].env[].name",
    "spec.template.spec.containers[].env[].value",
    "spec.template.spec.containers[].resources.requests.*",
    "spec.template.spec.containers[].resources.limits.*",
    "spec.template.spec.containers[].volumeMounts[].name",
    "spec.template.spec.containers[].volumeMounts[].mountPath",
    "spec.template.spec.containers[].volumeMounts[].readOnly",
    "spec.template.spec.volumes[].name",
    "spec.template.spec.volumes[].secret.secretName",
    "spec.template.spec.volumes[].secret.defaultMode",
    "spec.template.spec.volumes[].configMap.name",
    "spec.template.spec.volumes[].persistentVolumeClaim.claimName",
    "spec.template.spec.volumes[].emptyDir.medium",
];

fn check_fields(value: &Yaml, path: &str) {
    match value {
        Yaml::Hash(fields) => {
            for (name, value) in fields {
                let name = name.as_str().expect("field names are texts");
                check_fields(
                    value,
                    &if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") },
                );
            }
        }
        Yaml::Array(items) => items.iter().for_each(|item| check_fields(item, &format!("{path}[]"))),
        _ => {
            let own = path.rsplit_once('.').map_or(String::new(), |(parent, _)| format!("{parent}.*"));
            assert!(FIELDS.contains(&path) || FIELDS.contains(&own.as_str()), "no field {path} is known");
        }
    }
}

#[test]
fn the_manifest_for_kubernetes_starts_ranks_that_find_mpirun() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = fs::read_to_string(from_root("recipes/launch/kubernetes.yaml")).unwrap();
    let documents = YamlLoader::load_from_str(&text).unwrap();
    documents.iter().for_each(|document| check_fields(document, ""));
    let [service, job] = &documents[..] else { panic!("a service and a job") };
    assert_eq!((service["kind"].as_str(), job["kind"].as_str()), (Some("Service"), Some("Job")));
    let (name, pod) = (job["metadata"]["name"].as_str().unwrap(), &job["spec"]["template"]["spec"]);
    // Pods are found under the service's name, which selects the job's.
    assert_eq!(pod["subdomain"], service["metadata"]["name"]);
    assert_eq!(service["spec"]["selector"]["job-name"].as_str(), Some(name));
    assert_eq!(job["spec"]["completions"], job["spec"]["parallelism"]);
    let container = &pod["containers"][0];
    let variable = |wanted: &str| {
        let all = container["env"].as_vec().unwrap();
        let found = all.iter().find(|variable| variable["name"].as_str() == Some(wanted));
        found.unwrap_or_else(|| panic!("no variable {wanted}"))["value"].as_str().unwrap().to_owned()
    };
    let (pods, ranks) = (variable("PODS"), variable("RANKS"));
    assert_eq!(job["spec"]["completions"].as_i64().unwrap().to_string(), pods);
    let named = |list: &str| -> Vec<String> {
        let all = if list == "volumes" { &pod[list] } else { &container[list] };
        let mut names: Vec<String> =
            all.as_vec().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(named("volumes"), named("volumeMounts"));

    let script = container["args"][0].as_str().unwrap();
    is_well_formed(script);
    assert!(script.contains(&format!("\"{name}-$pod.{name}\"")), "hosts have the names of the job's pods");
    fs::write(folder.join("run.toml"), RUN_FILE).unwrap();
    fs::create_dir(folder.join(".ssh")).unwrap();
    let script = script.replace("/etc/triax-run/", "").replace("/data/run", "runs/here");
    for (program, does) in
        [("install", ""), ("getent", ""), ("ssh-keygen", ""), ("sshd", "echo \"sshd $*\"\n")]
    {
        stand_in(folder, program, does);
    }
    let variables = "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=$ranks OMPI_COMM_WORLD_LOCAL_RANK=0";
    launcher(folder, "mpirun", variables);
    let given = [("PODS", pods.as_str()), ("RANKS", ranks.as_str())];
    let first =
        shell(folder).args(["-c", &script]).envs(given).env("JOB_COMPLETION_INDEX", "0").output().unwrap();
    let found = format!("this is rank 0 of {ranks}, local rank 0, from mpirun (Open MPI)");
    came_to_the_first_rank(folder, &first, &found);
    let launched = fs::read_to_string(folder.join("launched")).unwrap();
    let hosts = launched.split(' ').skip_while(|word| *word != "--hostfile").nth(1).unwrap();
    let hosts = fs::read_to_string(hosts).unwrap();
    let places: usize = ranks.parse::<usize>().unwrap() / pods.parse::<usize>().unwrap();
    assert_eq!(hosts.lines().count().to_string(), pods);
    assert!(hosts.starts_with(&format!("{name}-0.{name} slots={places}\n")), "{hosts}");

    fs::remove_file(folder.join("bin/triax")).unwrap();
    let other =
        shell(folder).args(["-c", &script]).envs(given).env("JOB_COMPLETION_INDEX", "1").output().unwrap();
    assert!(other.status.success(), "{}", errors(&other));
    assert_eq!(String::from_utf8_lossy(&other.stdout), "sshd -D -e\n");
}

#[test]
fn the_page_about_launching_names_every_variable_and_flag() {
    let page = fs::read_to_string(from_root("docs/launching.md")).unwrap();
    let source = fs::read_to_string(from_root("crates/comm/src/launch.rs")).unwrap();
    let (table, _) = source.split_once("use std::fmt;").unwrap();
    let variables =
        table.split('`').skip(1).step_by(2).filter(|word| word.len() > 3 && !word.starts_with('…'));
    for variable in variables {
        assert!(page.contains(&format!("`{variable}`")), "{variable} is missing");
    }
    let folder = std::env::temp_dir();
    let help = triax(&folder).args(["train", "--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for flag in page.split(['`', ' ', '\n']).filter(|word| word.starts_with("--") && word.len() > 2) {
        let flag = flag.split('=').next().unwrap();
        let others = ["--features", "--mpi", "--kill-on-bad-exit", "--hostfile"];
        let known = help.contains(flag) || others.contains(&flag);
        assert!(known, "{flag} is none of `triax train`");
    }
    for flag in ["--max-restarts", "--launch", "--ranks", "--resume"] {
        assert!(page.contains(flag), "{flag} is missing");
    }
}
