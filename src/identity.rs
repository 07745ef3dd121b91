//! The names of this process, its program and its machine.

use std::{env, fs, path::Path, process, sync::LazyLock};

/// The file name of the program.
pub(crate) static PROGRAM: LazyLock<String> = LazyLock::new(|| {
    let program = env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name().map_or_else(|| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
});

/// The name of this machine, or of its container.
pub(crate) static HOST: LazyLock<String> = LazyLock::new(|| {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| env::var("HOSTNAME").ok());
    host.unwrap_or_default().trim().to_owned()
});

/// `host:pid`.
pub static PROCESS: LazyLock<String> = LazyLock::new(|| format!("{}:{}", *HOST, process::id()));
