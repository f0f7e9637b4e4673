//! Ctrl-C and SIGTERM: the first asks the work to finish its step, save and end; the second ends at once. SIGUSR1 asks
//! the same and never ends at once: mpirun and srun pass it on to their processes, and Slurm can send it in time.

use crate::failure::{Context, Failure};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code after the second signal, as shells report a SIGINT.
pub(crate) const AT_ONCE: u8 = 130;

/// Set by the first signal.
pub(crate) fn flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the shutdown sees the flag only if an earlier signal has set it.
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(AT_ONCE), Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .context(|| format!("cannot listen for signal {signal}"))?;
    }
    let listened = signal_hook::flag::register(SIGUSR1, Arc::clone(&flag));
    listened.context(|| format!("cannot listen for signal {SIGUSR1}"))?;
    Ok(flag)
}

/// Set by every signal; whoever looks resets it. Nothing ends by itself.
pub(crate) fn bell() -> Result<Arc<AtomicBool>, Failure> {
    let bell = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        let listened = signal_hook::flag::register(signal, Arc::clone(&bell));
        listened.context(|| format!("cannot listen for signal {signal}"))?;
    }
    Ok(bell)
}

/// Sets the flag when standard input ends.
pub(crate) fn when_stdin_ends(flag: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut ignored = [0; 64];
        while std::io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        flag.store(true, Ordering::Relaxed);
    });
}
