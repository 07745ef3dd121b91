//! Names and ports that no other test uses, in this process or beside it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Below the kernel's own range for outgoing connections, so that a port stays free while its node is down.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 20_000;

/// `prefix` with an ending that no other call returns, here or in another process: `email-8f3a91c2-7`.
pub fn unique(prefix: &str) -> String {
    static RUN: LazyLock<u32> = LazyLock::new(|| low_bits(random()));
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:08x}-{number}", *RUN)
}

/// A number below 16384 that no other call in this process returned, and hardly one in another.
pub(crate) fn small_number() -> u16 {
    static START: LazyLock<u32> = LazyLock::new(|| low_bits(random()));
    static NEXT: AtomicU32 = AtomicU32::new(0);
    (START.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 16_384) as u16
}

/// A free loopback TCP port that no other call in this process returned.
///
/// # Panics
///
/// When no port is free.
pub fn free_port() -> u16 {
    static START: LazyLock<u32> = LazyLock::new(|| low_bits(random()));
    static NEXT: AtomicU16 = AtomicU16::new(0);
    (0..PORTS)
        .map(|_| u32::from(NEXT.fetch_add(1, Ordering::Relaxed)))
        .map(|step| (START.wrapping_add(step) % u32::from(PORTS)) as u16 + FIRST_PORT)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free TCP port")
}

/// 128 random bits as text.
pub(crate) fn secret() -> String {
    format!("{:016x}{:016x}", random(), random())
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn low_bits(number: u64) -> u32 {
    (number & u64::from(u32::MAX)) as u32
}
