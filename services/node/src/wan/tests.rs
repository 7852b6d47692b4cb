//! The law of the simulated WAN: every byte, in order, half a round trip later, within a bound.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::delay::delayed_within;
use super::*;

const HALF: Duration = Duration::from_millis(40);

/// A near end, and the far end that it reaches after [`HALF`].
fn pair(window: usize) -> (DuplexStream, DuplexStream) {
    let (far_inner, far) = tokio::io::duplex(1 << 20);
    (delayed_within(far_inner, HALF, window), far)
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_half_a_round_trip_later_in_each_direction() {
    let (mut near, mut far) = pair(WINDOW_BYTES);
    let start = Instant::now();
    let mut word = [0; 4];
    near.write_all(b"ping").await.unwrap();
    far.read_exact(&mut word).await.unwrap();
    let there = start.elapsed();
    assert!(there >= HALF && there <= HALF + Duration::from_millis(2), "{there:?}");
    far.write_all(b"pong").await.unwrap();
    near.read_exact(&mut word).await.unwrap();
    let back = start.elapsed();
    assert!(back >= 2 * HALF && back <= 2 * HALF + Duration::from_millis(4), "{back:?}");
    assert_eq!(&word, b"pong");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_apart_arrives_apart() {
    let (mut near, mut far) = pair(WINDOW_BYTES);
    let start = Instant::now();
    near.write_all(b"a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    near.write_all(b"b").await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), b'a');
    let first = start.elapsed();
    assert_eq!(far.read_u8().await.unwrap(), b'b');
    let second = start.elapsed();
    assert!(second - first >= Duration::from_millis(9), "{first:?} {second:?}");
    assert!(second <= HALF + Duration::from_millis(13), "the second waited for the first: {second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_flows_at_full_width_and_in_order() {
    let (mut near, mut far) = pair(WINDOW_BYTES);
    const TOTAL: usize = 24 << 20;
    let sent: Vec<u8> = (0..TOTAL).map(|i| (i / 3 % 251) as u8).collect();
    let expected = sent.clone();
    let start = Instant::now();
    let writer = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        near
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got == expected, "the bytes differ");
    // One delay for all of it: a window that had to be answered before the next would take many.
    assert!(start.elapsed() < 2 * HALF, "{:?}", start.elapsed());
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_stops_the_writer_at_the_bound() {
    let window = 1 << 20;
    let (mut near, far) = pair(window);
    let chunk = vec![7; 64 << 10];
    let mut accepted = 0;
    while timeout(Duration::from_secs(5), near.write_all(&chunk)).await.is_ok() {
        accepted += chunk.len();
        assert!(accepted < 4 * window, "no back pressure");
    }
    // The window, the pipe before it, the far end's own buffer, and a chunk that was read as the bound was met.
    assert!(accepted >= window && accepted <= window + (256 << 10) + (1 << 20) + (128 << 10), "{accepted}");
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_after_all_bytes_and_as_late() {
    let (mut near, mut far) = pair(WINDOW_BYTES);
    let start = Instant::now();
    near.write_all(b"last words").await.unwrap();
    drop(near);
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
    assert!(start.elapsed() >= HALF, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_direction_can_end_while_the_other_goes_on() {
    let (mut near, mut far) = pair(WINDOW_BYTES);
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    far.write_all(b"still here").await.unwrap();
    let mut word = [0; 10];
    near.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"still here");
}

#[tokio::test(start_paused = true)]
async fn a_far_end_that_dies_is_noticed() {
    let (mut near, far) = pair(WINDOW_BYTES);
    drop(far);
    assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0, "its end arrives");
    // The first write travels into the void; the error comes back with a later one.
    let mut failed = false;
    for _ in 0..4 {
        failed |= near.write_all(b"x").await.is_err();
        tokio::time::sleep(2 * HALF).await;
    }
    assert!(failed);
}

#[tokio::test]
async fn over_real_sockets_the_round_trip_is_at_least_what_was_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let echo = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = socket.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let asked = Duration::from_millis(80);
    let start = Instant::now();
    let mut stream = WanConnector::new(asked).connect(&address, None).await.unwrap();
    assert!(start.elapsed() >= asked, "the handshake crosses the WAN too");
    // A machine that does much else adds to most round trips, but not to all.
    let little_more = asked + Duration::from_millis(60);
    let mut shortest = Duration::MAX;
    for i in 0..100u8 {
        let start = Instant::now();
        stream.write_all(&[i]).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), i);
        shortest = shortest.min(start.elapsed());
        if i >= 4 && shortest < little_more {
            break;
        }
    }
    assert!(shortest >= asked && shortest < little_more, "{shortest:?}");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    echo.await.unwrap();
}

#[tokio::test]
async fn a_refused_connection_is_an_error_after_a_round_trip() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let asked = Duration::from_millis(30);
    let start = Instant::now();
    let error = WanConnector::new(asked).connect(&address, Some(1 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(start.elapsed() >= asked);
}
