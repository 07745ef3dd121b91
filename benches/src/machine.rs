//! The machine and the resources that its processes use, read from `/proc`.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};
use serde::Serialize;

/// The properties of the machine that affect the results.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    /// The median time of a small write and its `fsync` in the data folder of the broker, or else in the temporary folder.
    pub(crate) fsync_us: f64,
}

impl Machine {
    pub(crate) fn inspect(disk: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
            fsync_us: fsync_us(disk).unwrap_or(f64::NAN),
        }
    }
}

fn fsync_us(disk: &Path) -> std::io::Result<f64> {
    let path = disk.join(format!("leveret-bench-fsync-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..51 {
        let started = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// User and system time of this process.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// User and system time of another process, to a hundredth of a second.
pub(crate) fn cpu(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The preceding field, the name in parentheses, may contain spaces.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// The peak memory of a process (`self` or an id).
pub(crate) fn peak_rss_kib(process: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

/// The process on this machine that listens on a TCP port, if it is visible.
pub(crate) fn listener(port: u16) -> Option<u32> {
    let listening = |table: &str| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let own = fields.get(1)?.rsplit_once(':')?.1;
            let is_listener = u16::from_str_radix(own, 16).ok()? == port && *fields.get(3)? == "0A";
            is_listener.then(|| format!("socket:[{}]", fields[9]))
        })
    };
    let socket = listening("/proc/net/tcp").or_else(|| listening("/proc/net/tcp6"))?;
    let holds = |process: &u32| {
        let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.as_os_str() == socket.as_str())
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(holds)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_port_and_its_time_and_memory_are_read() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener(socket.local_addr().unwrap().port()), Some(std::process::id()));
        assert_eq!(listener(1), None);
        let started = own_cpu();
        while own_cpu() - started < Duration::from_millis(50) {}
        assert!(cpu(std::process::id()).unwrap() >= Duration::from_millis(40));
        assert!(peak_rss_kib("self").unwrap() > 1_000);
    }
}
