//! `cargo xtask clients`: real clients against the server, a script in an environment of its own.

use anyhow::Result;

use crate::command::{self, cargo, install, installed, may_install, program, root, target};
use crate::python;

const NAME: &str = "clients-python";
const FOLDER: &str = "crates/serve/clients";

/// The names of the browser's program, and its Debian package.
const BROWSER: [&str; 2] = ["chromium", "chromium-browser"];
/// Debian's smallest font that has the page's Chinese.
const FONT: &str = "fonts-wqy-microhei";

/// Runs the script, or says why it cannot be run on this machine.
pub(crate) fn run(options: &python::Options) -> Result<()> {
    let python = match python::interpreter(options, NAME, &format!("{FOLDER}/requirements.txt")) {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: real clients against the server: {error:#}");
            return Ok(());
        }
    };
    if !BROWSER.iter().any(|name| installed(name)) && may_install()? {
        println!("installing {} and {FONT} (the page in a browser)", BROWSER[0]);
        if let Err(error) = install(&[BROWSER[0], FONT]) {
            println!("{error:#}");
        }
    }
    command::run(&mut cargo(&["build", "--release", "-p", "triax"]))?;
    let script = root().join(FOLDER).join("check.py");
    let triax = target().join("release/triax");
    let out = target().join("clients");
    command::run(&mut program(
        &python,
        &[&script.to_string_lossy(), "--triax", &triax.to_string_lossy(), "--out", &out.to_string_lossy()],
    ))
}
