use futures_util::{FutureExt, future::poll_fn};
use proptest::prelude::*;

use super::*;

/// A stream of chunks, never two in one read, and then the end.
struct Chunks(std::vec::IntoIter<Vec<u8>>);

impl AsyncRead for Chunks {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.0.as_slice().first().is_some_and(Vec::is_empty) {
            self.0.next();
        }
        let Some(chunk) = self.0.as_mut_slice().first_mut() else { return Poll::Ready(Ok(0)) };
        let count = chunk.len().min(into.len());
        into[..count].copy_from_slice(&chunk[..count]);
        chunk.drain(..count);
        Poll::Ready(Ok(count))
    }
}

fn read_all(chunks: Vec<Vec<u8>>, buffer: usize) -> Vec<u8> {
    let inner = Chunks(chunks.into_iter());
    let (mut guarded, mut all) =
        (GuardedStream::new(inner, FrameFilter::default(), Arc::default(), &CancellationToken::new()), Vec::new());
    let mut buffer = vec![0; buffer];
    loop {
        let read = poll_fn(|cx| Pin::new(&mut guarded).poll_read(cx, &mut buffer)).now_or_never();
        match read.unwrap().unwrap() {
            0 => {
                assert_eq!(guarded.inbound.held.capacity(), 0, "nothing stays held");
                return all;
            }
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1], length.as_slice(), payload, &[0xCE]].concat()
}

proptest! {
    #[test]
    fn the_same_frames_pass_however_the_bytes_arrive(
        sizes in proptest::collection::vec(prop_oneof![1..40_usize, 1..1_500_usize], 1..60),
        buffer in prop_oneof![1..50_usize, 1..1_500_usize],
    ) {
        let sound = frame(2, &[[0, 60, 0, 0].as_slice(), &[0; 8], &[0x10, 0, 2]].concat());
        let unreadable = frame(2, &[[0, 60, 0, 0].as_slice(), &[0; 8], &[0, 0x20, 1, 0xFF]].concat());
        let replacement = FrameFilter::default().replacement(&unreadable).unwrap();
        let (body, heartbeat) = (frame(3, &[7; 300]), frame(8, b""));
        let close = frame(1, &[0, 20, 0, 40, 1, 150, 0, 0, 0, 0, 0]);
        let sent = [&sound, &body, &unreadable, &heartbeat, &unreadable, &body, &close, &sound, &body, &unreadable];
        let wanted = [&sound, &body, &replacement, &heartbeat, &replacement, &body, &close];
        let (sent, wanted) = (sent.map(Vec::as_slice).concat(), wanted.map(Vec::as_slice).concat());
        let (mut rest, mut chunks) = (sent.as_slice(), Vec::new());
        for size in sizes.iter().cycle() {
            let (chunk, others) = rest.split_at((*size).min(rest.len()));
            if chunk.is_empty() { break }
            chunks.push(chunk.to_vec());
            rest = others;
        }
        prop_assert_eq!(read_all(chunks, buffer), wanted);
    }
}

#[test]
fn a_header_frame_longer_than_one_read_is_filtered_whole() {
    let header = |kind| {
        let entry = [b"\x01a", [kind].as_slice(), &200_000_u32.to_be_bytes(), &[b'x'; 200_000]].concat();
        let table = [u32::try_from(entry.len()).unwrap().to_be_bytes().as_slice(), &entry].concat();
        frame(2, &[[0, 60, 0, 0].as_slice(), &[0; 8], &[0x20, 0], &table].concat())
    };
    let (sound, unreadable, body) = (header(b'S'), header(b'_'), frame(3, &[7; 200_000]));
    let replacement = FrameFilter::default().replacement(&unreadable).unwrap();
    let sent = [&sound, &unreadable, &body, &sound].map(Vec::as_slice).concat();
    let wanted = [&sound, &replacement, &body, &sound].map(Vec::as_slice).concat();
    for buffer in [1_000, CHUNK, 1_000_000] {
        assert!(read_all(vec![sent.clone()], buffer) == wanted, "with a buffer of {buffer} bytes");
    }
}
