//! What Kafka's processes and clients are told. Flows in: options and addresses. Flows out: text. Pure.

use std::net::SocketAddr;
use std::path::Path;

use rdkafka::ClientConfig;
use serde_json::{Map, Value};

use super::{Flush, Mode, Tuned};

const BROKER: &str = include_str!("../../peers/kafka/broker.properties");
const CONNECT: &str = include_str!("../../peers/kafka/connect.properties");
const MIRROR: &str = include_str!("../../peers/kafka/mm2-common.properties");
const MIRROR_LATENCY: &str = include_str!("../../peers/kafka/mm2-latency.properties");
const MIRROR_THROUGHPUT: &str = include_str!("../../peers/kafka/mm2-throughput.properties");

/// What `kafka-run-class.sh` gives every JVM of Kafka.
const JVM: [&str; 6] = [
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

/// The heap of a broker, as `kafka-server-start.sh` sets it.
pub const BROKER_HEAP: [&str; 2] = ["-Xmx1g", "-Xms1g"];
/// The heap of MirrorMaker 2, as `connect-mirror-maker.sh` sets it.
pub const MIRROR_HEAP: [&str; 2] = ["-Xms256m", "-Xmx2g"];
/// Enough for a tool that runs for a second.
pub const TOOL_HEAP: [&str; 1] = ["-Xmx256m"];

/// How the JVMs log; a file of this name in the folder that they are started in.
pub const LOG4J: (&str, &str) = ("log4j2.properties", include_str!("../../peers/kafka/log4j2.properties"));

/// A JVM's arguments, up to and with its main class. `dir` has the file of [`LOG4J`].
pub fn jvm(heap: &[&str], dir: &Path, jars: &Path, main: &str) -> Vec<String> {
    let mut arguments: Vec<String> = heap.iter().chain(&JVM).map(|argument| (*argument).to_owned()).collect();
    arguments.push(format!("-Dlog4j2.configurationFile={}", dir.join(LOG4J.0).display()));
    arguments.extend(["-cp".to_owned(), format!("{}/*", jars.display()), main.to_owned()]);
    arguments
}

/// The file that a broker is started with.
pub fn broker(flush: Flush, broker: SocketAddr, controller: SocketAddr, data: &Path) -> String {
    let flush = match flush {
        Flush::Default => "",
        Flush::EachMessage => "log.flush.interval.messages=1",
    };
    fill(
        BROKER,
        &[
            ("BROKER", &broker.to_string()),
            ("CONTROLLER", &controller.to_string()),
            ("DATA", &data.display().to_string()),
            ("FLUSH", flush),
        ],
    )
}

/// The file that the Connect worker is started with.
pub fn connect(target: SocketAddr, rest: SocketAddr) -> String {
    fill(CONNECT, &[("TARGET", &target.to_string()), ("REST", &rest.to_string())])
}

/// What the Connect worker is asked for one topic.
pub fn mirror(tuned: Tuned, source: SocketAddr, target: SocketAddr, topic: &str) -> Value {
    let tuning = match tuned {
        Tuned::Latency => MIRROR_LATENCY,
        Tuned::Throughput => MIRROR_THROUGHPUT,
    };
    let texts = [("SOURCE", &*source.to_string()), ("TARGET", &*target.to_string()), ("TOPIC", topic)];
    entries(&[fill(MIRROR, &texts), tuning.to_owned()].join("\n"))
}

/// What the publishing client is told.
pub fn publisher(tuned: Tuned, mode: Mode, broker: SocketAddr) -> ClientConfig {
    let (linger, events, queue) = match (mode, tuned) {
        // Two hundred times what may be under way: a longer queue would only be waited in.
        (Mode::Single, _) => ("0", "1", "1000"),
        // What has come while a request was under way is the next one.
        (Mode::Batched | Mode::Batches(_), Tuned::Latency) => ("0", "10000", "100000"),
        // The defaults of this client, and this linger also that of Kafka's own since 4.0.
        (Mode::Batched | Mode::Batches(_), Tuned::Throughput) => ("5", "10000", "100000"),
    };
    let batch = match mode {
        Mode::Batches(bytes) => bytes,
        Mode::Single | Mode::Batched => 1_000_000,
    };
    let mut config = client(broker);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "none")
        .set("linger.ms", linger)
        .set("batch.num.messages", events)
        .set("batch.size", batch.to_string())
        // As Kafka's own client places a key.
        .set("partitioner", "murmur2_random")
        // What Kafka's own client holds at most.
        .set("queue.buffering.max.kbytes", "32768")
        .set("queue.buffering.max.messages", queue)
        // An event that waits long is late, and no error.
        .set("message.timeout.ms", "0");
    config
}

/// What the reading client is told.
pub fn reader(tuned: Tuned, broker: SocketAddr) -> ClientConfig {
    let mut config = client(broker);
    config
        // Needed to be made, and never used: partitions are assigned and nothing is committed.
        .set("group.id", "benches")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.min.bytes", "1")
        // After its queue was full it would sit out a whole second.
        .set("fetch.queue.backoff.ms", "1")
        .set("queued.max.messages.kbytes", "131072");
    if tuned == Tuned::Throughput {
        config.set("max.partition.fetch.bytes", "8388608");
    }
    config
}

/// What every client is told.
pub fn client(broker: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.to_string()).set("socket.nagle.disable", "true");
    config
}

fn fill(template: &str, texts: &[(&str, &str)]) -> String {
    let replace = |text: String, (name, value): &(&str, &str)| text.replace(&format!("@{name}@"), value);
    texts.iter().fold(template.to_owned(), replace)
}

fn entries(properties: &str) -> Value {
    let lines = properties.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let entry = |(name, value): (&str, &str)| (name.trim().to_owned(), Value::from(value.trim()));
    Value::Object(lines.filter_map(|line| line.split_once('=')).map(entry).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn a_broker_listens_at_its_site_and_flushes_as_asked() {
        let text = |flush| broker(flush, at("10.0.0.1:9092"), at("10.0.0.1:9093"), Path::new("/d"));
        let (lazy, each) = (text(Flush::Default), text(Flush::EachMessage));
        for line in [
            "listeners=PLAINTEXT://10.0.0.1:9092,CONTROLLER://10.0.0.1:9093",
            "advertised.listeners=PLAINTEXT://10.0.0.1:9092",
            "controller.quorum.bootstrap.servers=10.0.0.1:9093",
            "log.dirs=/d",
        ] {
            assert!(lazy.lines().any(|given| given == line), "{line}");
        }
        assert!(!lazy.contains("log.flush") && each.ends_with("log.flush.interval.messages=1\n"));
        let nothing_left =
            |text: &str| !text.lines().any(|line| !line.starts_with('#') && line.contains('@'));
        assert!(nothing_left(&lazy) && nothing_left(&connect(at("[::1]:1"), at("[::1]:2"))));
    }

    #[test]
    fn the_mirror_takes_one_topic_from_us_to_eu() {
        let asked = |tuned| mirror(tuned, at("10.0.0.1:1"), at("10.0.0.2:2"), "row-1");
        let (latency, throughput) = (asked(Tuned::Latency), asked(Tuned::Throughput));
        assert_eq!(latency["topics"], "row-1");
        assert_eq!(latency["source.cluster.bootstrap.servers"], "10.0.0.1:1");
        assert_eq!(latency["target.cluster.bootstrap.servers"], "10.0.0.2:2");
        assert_eq!(latency["producer.override.linger.ms"], "0");
        assert_ne!(latency["producer.override.linger.ms"], throughput["producer.override.linger.ms"]);
        assert!(!latency.to_string().contains('@'));
    }

    #[test]
    fn a_single_event_is_a_request() {
        let config = publisher(Tuned::Throughput, Mode::Single, at("127.0.0.1:1"));
        assert_eq!((config.get("batch.num.messages"), config.get("linger.ms")), (Some("1"), Some("0")));
        assert_eq!((config.get("acks"), config.get("enable.idempotence")), (Some("all"), Some("true")));
    }

    #[test]
    fn a_jvm_is_bounded() {
        let arguments = jvm(&BROKER_HEAP, Path::new("/dir"), Path::new("/jars"), "kafka.Kafka");
        assert!(arguments.starts_with(&["-Xmx1g".to_owned(), "-Xms1g".to_owned()]));
        assert_eq!(arguments[arguments.len() - 3..], ["-cp", "/jars/*", "kafka.Kafka"]);
    }
}
