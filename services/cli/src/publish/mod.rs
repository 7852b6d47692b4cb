//! `meridian publish`: the lines of a file, each once and in order by key.

mod progress;
mod tally;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meridian_sdk::{Client, Codec, Event, PublishError, Publisher, PublisherOptions};
use meridian_types::limits::BATCH_BYTES;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use self::progress::Progress;
use self::tally::{Counted, Tally, count};
use crate::exit::{Exit, Failure, Outcome};
use crate::reader::{Broken, Input, Line};
use crate::target::Target;
use crate::{human, output};

/// How long Ctrl-C waits for what is under way.
const GRACE: Duration = Duration::from_secs(3);
/// How long looking the stream up may take before we say that we wait.
const SAY_WAITING: Duration = Duration::from_secs(2);

/// `meridian publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream.
    stream: String,
    /// One JSON value a line (.ndjson), packed with gzip or not; - for stdin.
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// The field whose value is the key: events of one key keep their order.
    #[arg(long, value_name = "NAME")]
    key_field: Option<String>,
    /// Give up after so long without any progress: nothing acknowledged, no node answering.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = human::parse_time)]
    timeout: Duration,
    /// A batch is closed at this size.
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = batch_bytes, allow_negative_numbers = true)]
    batch_bytes: u64,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd.
    #[arg(long, value_name = "NAME", default_value = "lz4", value_parser = codec)]
    codec: Codec,
    /// At most so many events a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Print the summary as JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn batch_bytes(text: &str) -> Result<u64, String> {
    let limit = BATCH_BYTES as u64;
    let bytes = human::parse_bytes(text)?;
    if bytes == 0 || bytes > limit {
        return Err(format!("a batch has 1 byte to {}", human::bytes(limit)));
    }
    Ok(bytes)
}

fn codec(name: &str) -> Result<Codec, String> {
    Codec::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Codec::ALL.iter().map(|codec| codec.name()).collect();
        format!("no such codec; one of {}", names.join(", "))
    })
}

/// Why no more lines were sent.
enum End {
    /// All were.
    Whole,
    /// A line that is none.
    Broken(Broken),
    /// An event failed for good; the tally knows which.
    Failed,
    /// The publisher takes no more.
    Refused(u64, PublishError),
    /// Ctrl-C.
    Interrupted,
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let client = args.target.region(args.timeout)?;
    let input = Input::open(&args.file)?;
    let options = PublisherOptions {
        batch_bytes: usize::try_from(args.batch_bytes).unwrap_or(BATCH_BYTES),
        codec: args.codec,
        progress_timeout: args.timeout,
        ..PublisherOptions::default()
    };
    let Some(publisher) = open(&client, &args, options).await? else { return Ok(Exit::Interrupted) };

    let begun = Instant::now();
    let tally = Arc::new(Mutex::new(Tally::new()));
    let mut progress = Progress::new(&input);
    let name = input.name.clone();
    let (sent, deliveries) = mpsc::unbounded_channel();
    let counter = tokio::spawn(count(deliveries, Arc::clone(&tally)));
    let lines = input.read(args.key_field.clone());
    let keyless = AtomicU64::new(0);
    let end = {
        let work = send_all(&publisher, lines, sent, tally.lock().failed(), args.rate, &keyless);
        tokio::pin!(work);
        let mut ticker = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                end = &mut work => break end,
                _ = ticker.tick() => progress.show(&tally.lock(), publisher.trouble().as_deref()),
            }
        }
    };
    progress.finish();
    // What has no answer by now gets none.
    drop(publisher);
    let _ = counter.await;
    if let (Some(field), keyless @ 1..) = (&args.key_field, keyless.into_inner()) {
        eprintln!(
            "meridian: {} had no field {field:?} and went without a key: nothing keeps their order",
            human::events(keyless)
        );
    }
    report(&args, &name, &tally.lock(), begun.elapsed(), end)
}

/// Looks the stream up, for as long as is allowed. None: Ctrl-C.
async fn open(client: &Client, args: &Args, options: PublisherOptions) -> Result<Option<Publisher>, Failure> {
    let opening = client.publisher(&args.stream, options);
    tokio::pin!(opening);
    let mut said = false;
    loop {
        tokio::select! {
            publisher = &mut opening => return Ok(Some(publisher?)),
            _ = tokio::signal::ctrl_c() => {
                eprintln!("meridian: interrupted before anything was sent");
                return Ok(None);
            }
            () = tokio::time::sleep(SAY_WAITING), if !said => {
                said = true;
                let (nodes, time) = (client.endpoints(), human::time(args.timeout));
                eprintln!("no answer from {nodes} yet; trying for {time}");
            }
        }
    }
}

/// Sends every line, and waits for the answers; after Ctrl-C only for a short while.
async fn send_all(
    publisher: &Publisher,
    mut lines: mpsc::Receiver<Result<Vec<Line>, Broken>>,
    sent: mpsc::UnboundedSender<Counted>,
    failed: Arc<Notify>,
    rate: Option<u32>,
    keyless: &AtomicU64,
) -> End {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut pace = rate.map(Pace::new);
    let sending = async {
        while let Some(chunk) = lines.recv().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(broken) => return End::Broken(broken),
            };
            for Line { number, value, key } in chunk {
                if let Some(pace) = &mut pace {
                    pace.wait().await;
                }
                let bytes = value.len() as u64;
                keyless.fetch_add(u64::from(key.is_none()), Ordering::Relaxed);
                let event = Event { key, value: Some(value), ..Event::default() };
                match publisher.send(event).await {
                    Ok(delivery) => {
                        // The counter lives as long as this.
                        let _ = sent.send(Counted { line: number, bytes, delivery });
                    }
                    Err(error) => return End::Refused(number, error),
                }
            }
        }
        End::Whole
    };
    let end = tokio::select! {
        biased;
        _ = &mut interrupted => End::Interrupted,
        () = failed.notified() => End::Failed,
        end = sending => end,
    };
    let answers = publisher.flush();
    match end {
        End::Interrupted => {
            let _ = tokio::time::timeout(GRACE, answers).await;
            End::Interrupted
        }
        end => tokio::select! {
            _ = &mut interrupted => {
                let _ = tokio::time::timeout(GRACE, publisher.flush()).await;
                End::Interrupted
            }
            // The tally keeps the failures.
            _ = answers => end,
        },
    }
}

/// Spreads events evenly over time.
struct Pace {
    step: Duration,
    next: Instant,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { step: Duration::from_secs(1) / rate, next: Instant::now() }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
        // Timers are no finer than a millisecond; what is late is made up for, but not a long stand-still.
        if self.next > now + Duration::from_millis(1) {
            tokio::time::sleep_until(self.next.into()).await;
        }
        self.next = self.next.max(now.checked_sub(Duration::from_millis(100)).unwrap_or(now)) + self.step;
    }
}

fn report(args: &Args, file: &str, tally: &Tally, took: Duration, end: End) -> Outcome {
    let summary = tally.summary(&args.stream, took);
    if args.json {
        output::json(&summary)?;
    } else {
        eprintln!("{summary}");
    }
    outcome(file, tally.first_failure(), end, &tally.so_far())
}

/// How the command ends. Where an event failed and a line is broken too, both are told: who mends only one runs into the
/// other.
fn outcome(file: &str, failed: Option<&(u64, PublishError)>, end: End, so_far: &str) -> Outcome {
    let broken = match &end {
        End::Broken(Broken { number, reason }) => {
            Some(format!("{file}, line {number}: {reason}\nstopped there"))
        }
        _ => None,
    };
    if let Some((line, error)) = failed
        && !matches!(end, End::Interrupted)
    {
        let failure = Failure::from(error.clone());
        let broken = broken.map(|broken| format!("\n{broken}")).unwrap_or_default();
        let message = format!("{file}, line {line}: {}{broken}\n{so_far}", failure.message);
        return Err(Failure { message, ..failure });
    }
    match end {
        End::Whole | End::Failed => Ok(Exit::Ok),
        End::Broken(_) => Err(Failure::input(format!("{}; {so_far}", broken.unwrap_or_default()))),
        End::Refused(line, error) => {
            let failure = Failure::from(error);
            Err(Failure { message: format!("{file}, line {line}: {}\n{so_far}", failure.message), ..failure })
        }
        End::Interrupted => {
            Err(Failure { exit: Exit::Interrupted, message: format!("interrupted; {so_far}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_and_sizes_are_checked() {
        assert_eq!(codec("zstd"), Ok(Codec::Zstd));
        assert!(codec("brotli").unwrap_err().contains("lz4"));
        assert_eq!(batch_bytes("64KiB"), Ok(65536));
        assert!(batch_bytes("9MiB").is_err());
        assert!(batch_bytes("0").is_err());
    }

    #[test]
    fn a_failed_event_does_not_hide_a_broken_line() {
        let broken = || End::Broken(Broken { number: 9, reason: "no JSON".into() });
        let failed = (3, PublishError::Closed);
        let Err(both) = outcome("x", Some(&failed), broken(), "so far") else { panic!("it failed") };
        assert_eq!(both.exit, Exit::Refused);
        for part in ["x, line 3: ", "x, line 9: no JSON", "so far"] {
            assert!(both.message.contains(part), "{part}: {}", both.message);
        }
        let Err(one) = outcome("x", None, broken(), "so far") else { panic!("it is broken") };
        assert_eq!(
            (one.exit, one.message.as_str()),
            (Exit::BadInput, "x, line 9: no JSON\nstopped there; so far")
        );
    }
}
