//! The network measured from inside: what a world asks of its WAN and its cuts is what its processes get.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use meridian_chaos_live::net::{Cut, Cuts, Namespaces, Place, enter};
use meridian_chaos_live::trouble::Trouble;
use meridian_chaos_live::wan::{Profile, Relay};
use meridian_chaos_live::{Alone, or_skip, say};

const PORT: u16 = 9000;
const A: Place = Place::Node(1, 1);
const B: Place = Place::Node(2, 1);

fn address(place: Place, region: u8) -> SocketAddrV4 {
    SocketAddrV4::new(place.address(region), PORT)
}

/// Answers every datagram until it is silent for a while.
fn echo(place: Place, region: u8) -> std::thread::JoinHandle<()> {
    let socket = enter(place, || Ok(UdpSocket::bind(address(place, region))?)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    })
}

/// Sends so many datagrams, a millisecond apart, and gives the round trips of those that came back.
fn round_trips(from: Place, to: SocketAddrV4, count: u32) -> Vec<Duration> {
    let socket = enter(from, || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let begun = Instant::now();
    let sender = socket.try_clone().unwrap();
    let sends = std::thread::spawn(move || {
        let mut sent = Vec::new();
        for number in 0..count {
            sent.push(begun.elapsed());
            sender.send_to(&number.to_le_bytes(), to).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    });
    let mut came = Vec::new();
    let mut buffer = [0; 64];
    while let Ok(length) = socket.recv(&mut buffer) {
        assert_eq!(length, 4);
        came.push((u32::from_le_bytes(buffer[..4].try_into().unwrap()), begun.elapsed()));
    }
    let sent = sends.join().unwrap();
    came.into_iter().map(|(number, at)| at - sent[number as usize]).collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// How many bits a second get through TCP.
fn throughput(from: Place, to: Place, region: u8, within: Duration) -> f64 {
    let listener = enter(to, || Ok(TcpListener::bind(address(to, region))?)).unwrap();
    let receives = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut total, mut buffer) = (0u64, vec![0; 1 << 16]);
        let begun = Instant::now();
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            total += length as u64;
        }
        total as f64 * 8.0 / begun.elapsed().as_secs_f64()
    });
    let mut stream = enter(from, || Ok(TcpStream::connect(address(to, region))?)).unwrap();
    let (block, until) = (vec![7; 1 << 16], Instant::now() + within);
    while Instant::now() < until {
        stream.write_all(&block).unwrap();
    }
    drop(stream);
    receives.join().unwrap()
}

fn world() -> Result<(Alone, Namespaces, Relay), Trouble> {
    let alone = Alone::wait()?;
    let spaces = Namespaces::make(&alone, &[2, 1])?;
    let relay = Relay::start(&spaces, 1, |_, _| Profile::with_delay(Duration::from_millis(20)))?;
    Ok((alone, spaces, relay))
}

#[test]
fn the_wan_is_as_slow_as_it_was_told() {
    let Some((_alone, _spaces, relay)) = or_skip("network", world()) else { return };
    let echoing = echo(B, 2);
    let to = address(B, 2);
    let near = median({
        let neighbour = echo(Place::Node(1, 2), 1);
        let times = round_trips(A, address(Place::Node(1, 2), 1), 100);
        neighbour.join().unwrap();
        times
    });
    assert!(near < Duration::from_millis(5), "within a region: {near:?}");
    echoing.join().unwrap();

    let echoing = echo(B, 2);
    let far = round_trips(A, to, 200);
    assert_eq!(far.len(), 200, "nothing is lost on a sound line");
    let far = median(far);
    assert!((40..55).contains(&far.as_millis()), "40 ms of delay give {far:?}");

    relay.change(1, 2, |profile| profile.loss = 0.3);
    let came = round_trips(A, to, 1000).len();
    assert!((600..800).contains(&came), "of 1000 with a loss of 0.3 came {came}");
    relay.change(1, 2, |profile| (profile.loss, profile.delay) = (0.0, Duration::from_millis(80)));
    let slower = median(round_trips(A, to, 100));
    assert!((100..115).contains(&slower.as_millis()), "a direction is its own: {slower:?}");
    echoing.join().unwrap();

    relay.change_all(|profile| profile.delay = Duration::from_millis(2));
    let fast = throughput(A, B, 2, Duration::from_secs(2));
    relay.change(1, 2, |profile| profile.bandwidth = Some(10_000_000));
    let slow = throughput(A, B, 2, Duration::from_secs(3));
    assert!((7.0e6..10.1e6).contains(&slow), "10 Mbit/s give {slow:.0}");
    say(&format!(
        "network: round trip near {near:.1?}, far {far:.1?} (40 ms asked), {came} of 1000 at loss 0.3, \
         {:.0} Mbit/s unbounded, {:.1} of 10 Mbit/s",
        fast / 1e6,
        slow / 1e6
    ));
}

#[test]
fn a_cut_has_one_direction_and_heals() {
    let Some((_alone, _spaces, relay)) = or_skip("cuts", world()) else { return };
    let mut cuts = Cuts::default();
    let one = |from: Place, region: u8, to: Place, at: u8| {
        let echoing = enter(to, || Ok(UdpSocket::bind(address(to, at))?)).unwrap();
        echoing.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let socket = enter(from, || Ok(UdpSocket::bind(address(from, region))?)).unwrap();
        let _ = socket.send_to(b"x", address(to, at));
        echoing.recv(&mut [0; 8]).is_ok()
    };
    let cut = cuts.cut(Place::of_node(1, 1), B, Cut::Drop);
    if or_skip("cuts", cut).is_none() {
        return;
    }
    assert!(!one(A, 1, B, 2), "cut");
    assert!(one(B, 2, A, 1), "the other direction");
    assert!(one(Place::Node(1, 2), 1, B, 2), "another's packets");
    cuts.heal(Place::of_node(1, 1), B).unwrap();
    assert!(one(A, 1, B, 2), "healed");

    let _listener = enter(B, || Ok(TcpListener::bind(address(B, 2))?)).unwrap();
    let mut open = enter(A, || Ok(TcpStream::connect(address(B, 2))?)).unwrap();
    // The last packet of the handshake is still under way.
    std::thread::sleep(Duration::from_millis(100));
    cuts.cut(Place::of_node(1, 1), B, Cut::Reset).unwrap();
    let begun = Instant::now();
    let refused = enter(A, || Ok(TcpStream::connect(address(B, 2)).map(drop)));
    let refused = refused.unwrap().unwrap_err().kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    assert!(begun.elapsed() < Duration::from_secs(1), "a reset is heard at once");
    let _ = open.write_all(b"x");
    assert_eq!(open.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset, "open ones too");
    cuts.heal_all().unwrap();
    assert!(enter(A, || Ok(TcpStream::connect(address(B, 2))?)).is_ok());

    // A WAN that is down: nothing passes in either direction, and it comes back.
    relay.change_all(|profile| profile.up = false);
    assert!(!one(A, 1, B, 2) && !one(B, 2, A, 1));
    relay.change_all(|profile| profile.up = true);
    assert!(one(A, 1, B, 2));
    assert!(relay.counted(1, 2).lost > 0 && relay.counted(1, 2).passed > 0);
}
