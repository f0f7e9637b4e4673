//! `cargo xtask lint`: rustfmt, clippy, rustdoc and `tidy`. All in the release profile, so that clippy and
//! rustdoc share one check of the dependencies.

use anyhow::Result;

use crate::command::{self, cargo};
use crate::tidy;

pub(crate) fn run() -> Result<()> {
    command::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    command::run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--release",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))?;
    command::run(
        cargo(&["doc", "--workspace", "--no-deps", "--release", "--locked", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}
