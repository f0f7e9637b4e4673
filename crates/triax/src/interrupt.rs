//! Ctrl-C and SIGTERM: the first asks the work to finish its step, save and end; the second ends at once.

use crate::failure::{Context, Failure};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Exit code after the second signal, as shells report a SIGINT.
const AT_ONCE: i32 = 130;

/// Set by the first signal.
pub(crate) fn flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the shutdown sees the flag only if an earlier signal has set it.
        signal_hook::flag::register_conditional_shutdown(signal, AT_ONCE, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .context(|| format!("cannot listen for signal {signal}"))?;
    }
    Ok(flag)
}
