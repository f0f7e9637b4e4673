//! Servers of three protocols for the tests of object stores (`cargo xtask test --cloud`), each on a free port of this
//! machine for as long as the tests run: moto for S3; moto behind Google's form of that protocol; Azurite for Azure.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::command::{self, install, installed, may_install, program, root, target};
use crate::python;

const FOLDER: &str = "crates/curate/tests/objects";
/// The last one for the Node.js that Debian has.
const AZURITE: &str = "azurite@3.35.0";
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the value.
pub(crate) struct Server {
    child: Child,
    /// What a client of it has in its environment.
    variables: Vec<(&'static str, String)>,
}

/// A server for every store; what this machine cannot install is said, and its tests skip themselves.
pub(crate) fn servers() -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    match python::interpreter(
        &python::Options::default(),
        "cloud-venv",
        &format!("{FOLDER}/requirements.txt"),
    ) {
        Ok(python) => {
            servers.push(Server::start(
                |port| program(&python, &["-m", "moto.server", "-H", "127.0.0.1", "-p", port]),
                |endpoint| {
                    let [http, region] = [("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")];
                    let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
                    let rest =
                        [http, region].into_iter().chain(keys).map(|(name, value)| (name, value.to_owned()));
                    std::iter::once(("AWS_ENDPOINT_URL", endpoint)).chain(rest).collect()
                },
            )?);
            let script = root().join(FOLDER).join("google.py");
            servers.push(Server::start(
                |port| program(&python, &[&script.to_string_lossy(), port]),
                |endpoint| vec![("GOOGLE_BASE_URL", endpoint), ("GOOGLE_BEARER_TOKEN", "test".to_owned())],
            )?);
        }
        Err(error) => println!("skipped: tests of s3:// and gs://: {error:#}"),
    }
    match azurite() {
        Ok(azurite) => servers.push(Server::start(
            |port| {
                let mut command = program(&azurite, &["--blobHost", "127.0.0.1", "--blobPort", port]);
                // The version of the protocol is the client's matter.
                command.args(["--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]);
                command
            },
            // The crate takes the account and its key, which every Azurite has, from the first.
            |endpoint| {
                vec![
                    ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
                    ("AZURITE_BLOB_STORAGE_URL", endpoint),
                ]
            },
        )?),
        Err(error) => println!("skipped: tests of az://: {error:#}"),
    }
    Ok(servers)
}

/// The path of Azurite's server of blobs, after installing it.
fn azurite() -> Result<String> {
    let folder = target().join("azurite");
    // Written last: an interrupted installation is not taken for a finished one.
    let stamp = folder.join("installed");
    if !std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == AZURITE) {
        if !installed("npm") && may_install()? {
            install(&["npm"])?;
        }
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let prefix = folder.to_string_lossy();
        command::run(&mut program(
            "npm",
            &["install", "--prefix", &prefix, "--no-audit", "--no-fund", "--loglevel=error", AZURITE],
        ))?;
        std::fs::write(&stamp, AZURITE).with_context(|| stamp.display().to_string())?;
    }
    Ok(folder.join("node_modules/.bin/azurite-blob").to_string_lossy().into_owned())
}

impl Server {
    /// Starts what `command` makes of a port, and waits until it answers there.
    fn start(
        command: impl FnOnce(&str) -> Command,
        variables: impl FnOnce(String) -> Vec<(&'static str, String)>,
    ) -> Result<Self> {
        // Free now; nobody else on the machine asks for one so soon.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = command(&port.to_string());
        let shown = command::show(&command);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let mut server = Self { child, variables: variables(format!("http://127.0.0.1:{port}")) };
        let (address, begin) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Instant::now());
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("`{shown}` ended before it answered: {status}");
            }
            if begin.elapsed() > PATIENCE {
                bail!("`{shown}` does not answer after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(server)
    }

    /// Lets a client of it run.
    pub(crate) fn environment(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
