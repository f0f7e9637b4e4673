//! A server of the S3 protocol for the tests of object stores (`cargo xtask test --cloud`): moto, in an environment of
//! its own, on a free port of this machine, for as long as the tests run.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::command::program;
use crate::python;

const REQUIREMENTS: &str = "crates/curate/tests/objects-requirements.txt";
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the value.
pub(crate) struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    /// Installs and starts it, and waits until it answers.
    pub(crate) fn start() -> Result<Self> {
        let python = python::interpreter(&python::Options::default(), "cloud-venv", REQUIREMENTS)?;
        // Free now; nobody else on the machine asks for one so soon.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command =
            program(&python, &["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start moto")?;
        let mut server = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
        let (address, begin) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Instant::now());
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("moto ended before it answered: {status}");
            }
            if begin.elapsed() > PATIENCE {
                bail!("moto does not answer after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(server)
    }

    /// What a client of it has in its environment.
    pub(crate) fn environment(&self, command: &mut Command) {
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
