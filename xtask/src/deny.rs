//! `cargo xtask deny`: the whole of deny.toml by cargo-deny, advisories included. `tidy` enforces the licence
//! and source rules of the same file without it, so nobody must install it.

use anyhow::{Result, bail};

use crate::command::{self, cargo, installed};

pub(crate) fn run() -> Result<()> {
    if !installed("cargo-deny") {
        bail!("cargo-deny is not installed; `cargo install --locked cargo-deny` installs it");
    }
    command::run(&mut cargo(&["deny", "check"]))
}
