//! What every scenario stands on: a world, publishers and consumers in every region, the record.

use std::time::{Duration, Instant};

use meridian_sdk::v1::StreamSettings;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::laws::{Evidence, GivenUp};
use crate::record::{Asking, Consuming, Load, Publishing, Recorder, What, read_finals};
use crate::scenario::{Outcome, Run};
use crate::trouble::{Context as _, Trouble};
use crate::world::{Plan, World};

/// The stream of every scenario.
pub const STREAM: &str = "live";
pub const PARTITIONS: u32 = 4;
const AGREE_WITHIN: Duration = Duration::from_secs(120);
const SEEN_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A scenario under way.
#[derive(Debug)]
pub struct Stage {
    publishing: Vec<Publishing>,
    consuming: Vec<Consuming>,
    asking: Vec<Asking>,
    /// Its record.
    pub recorder: Recorder,
    /// Its chance.
    pub rng: StdRng,
    /// Set where publishers may be told errors.
    pub errors_allowed: bool,
    /// What was given up with disks.
    pub given_up: Vec<GivenUp>,
    /// Cleared where breaches are what is looked for.
    pub keep_when_broken: bool,
    /// Last: clients end before their world.
    pub world: World,
}

impl Stage {
    /// Starts a world in which every region publishes and reads, runs `play` in it, and judges.
    ///
    /// # Errors
    /// The machine cannot, or `play` says so; then configurations, logs and the record are left behind.
    pub fn play(
        run: Run,
        plan: Plan,
        load: Load,
        play: impl FnOnce(&mut Self) -> Result<(), Trouble>,
    ) -> Outcome {
        let mut stage = Self::begin(run, plan, load)?;
        let played = play(&mut stage).and_then(|()| stage.judge());
        let sound = played.as_ref().is_ok_and(|verdict| verdict.breaches.is_empty());
        if !sound && stage.keep_when_broken && !matches!(played, Err(Trouble::Skip(_))) {
            stage.world.keep();
            crate::say(&format!(
                "   configurations, logs and the record are in {}",
                stage.world.folder().display()
            ));
        }
        played
    }

    fn begin(run: Run, plan: Plan, load: Load) -> Result<Self, Trouble> {
        let world = World::start(&Plan { seed: run.seed, ..plan })?;
        let recorder = Recorder::begin(&world.path("record.jsonl"))?;
        create_stream(&world)?;
        let mut stage = Self {
            publishing: Vec::new(),
            consuming: Vec::new(),
            asking: Vec::new(),
            recorder,
            rng: StdRng::seed_from_u64(run.seed),
            errors_allowed: false,
            given_up: Vec::new(),
            keep_when_broken: true,
            world,
        };
        for region in 1..=stage.regions() {
            stage.consuming.push(Consuming::start(&stage.world, &stage.recorder, region, STREAM)?);
            stage.publishing.push(Publishing::start(&stage.world, &stage.recorder, region, 0, STREAM, load)?);
        }
        for index in stage.world.in_use() {
            stage.asking.push(Asking::start(&stage.world, &stage.recorder, index, STREAM)?);
        }
        stage.wait_acks(50)?;
        Ok(stage)
    }

    /// How many regions there are.
    pub fn regions(&self) -> u8 {
        u8::try_from(self.world.regions().len()).unwrap_or(u8::MAX)
    }

    /// Notes a fault that is injected now.
    pub fn fault(&self, what: impl Into<String>) {
        self.tell(what.into(), true);
    }

    /// Notes that something was healed, or another step that is no fault.
    pub fn step(&self, what: impl Into<String>) {
        self.tell(what.into(), false);
    }

    fn tell(&self, what: String, counts: bool) {
        let sign = if counts { '*' } else { ' ' };
        crate::say(&format!("   {:>7.1} s {sign} {what}", self.recorder.elapsed().as_secs_f64()));
        self.recorder.note(What::Fault { what, counts });
    }

    /// Waits until so many more events are acknowledged, over all regions.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_acks(&self, more: u64) -> Result<(), Trouble> {
        let (wanted, until) = (self.recorder.acks() + more, Instant::now() + Duration::from_secs(60));
        while self.recorder.acks() < wanted {
            if Instant::now() > until {
                return Err(Trouble::broken(format!(
                    "{more} more acknowledgements do not come within a minute"
                )));
            }
            // Fine, so that what follows comes right after an acknowledgement.
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Acknowledged events of one region's publisher so far.
    pub fn acks_of(&self, region: &str) -> u64 {
        let prefix = format!("{region}/0/");
        self.recorder.count(|what| matches!(what, What::Ack { id, .. } if id.starts_with(&prefix)))
    }

    /// Waits until one region's publisher has so many more acknowledgements.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_acks_of(&self, region: &str, more: u64, within: Duration) -> Result<(), Trouble> {
        let (wanted, until) = (self.acks_of(region) + more, Instant::now() + within);
        while self.acks_of(region) < wanted {
            if Instant::now() > until {
                return Err(Trouble::broken(format!("{region} acknowledges nothing more within {within:?}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits a random while, up to so many milliseconds.
    pub fn pause(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.random_range(0..=most_ms)));
    }

    /// Starts nodes and waits until all are ready.
    ///
    /// # Errors
    /// One does not come up.
    pub fn start_again(&mut self, indices: &[usize]) -> Result<(), Trouble> {
        for index in indices {
            self.world.launch(*index)?;
        }
        self.world.wait_all_ready()
    }

    /// Asks a node to create another stream, and does not wait for the answer.
    ///
    /// # Errors
    /// The world has ended.
    pub fn create_stream_somewhere(&self, index: usize, name: &str) -> Result<(), Trouble> {
        let (endpoints, name) = (self.world.endpoints(self.world.node(index).place().0), name.to_owned());
        let work = async move {
            let settings = StreamSettings { partitions: 1, ..StreamSettings::default() };
            if let Ok(client) = crate::world::client(endpoints, Duration::from_secs(30)) {
                // Whether it succeeds is not what is looked at.
                let _ = client.admin().create_stream(&name, settings).await;
            }
        };
        self.world.clients.spawn(work).map(drop)
    }

    /// Publishers stop, copies agree, everything is read and judged.
    fn judge(&mut self) -> Outcome {
        for publishing in std::mem::take(&mut self.publishing) {
            publishing.stop(&self.world)?;
        }
        for asking in std::mem::take(&mut self.asking) {
            asking.stop(&self.world)?;
        }
        let finals = read_finals(&self.world, STREAM, AGREE_WITHIN)?;
        let events =
            finals.regions.values().flat_map(|lanes| lanes.values().map(Vec::len)).sum::<usize>() as u64;
        let mut evidence = Evidence {
            entries: self.recorder.entries()?,
            finals,
            errors_allowed: self.errors_allowed,
            given_up: self.given_up.clone(),
        };
        // Consumers have their own pace; what they never see, no law covers.
        let until = Instant::now() + SEEN_WITHIN;
        while evidence.seen() < events && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
            evidence.entries = self.recorder.entries()?;
        }
        for consuming in std::mem::take(&mut self.consuming) {
            consuming.stop(&self.world)?;
        }
        evidence.entries = self.recorder.entries()?;
        let (mut verdict, seen) = (evidence.judge(), evidence.seen());
        if verdict.reads == 0 {
            verdict.breaches.push("no node ever said where the stream ends".to_owned());
        }
        if seen < events {
            verdict.breaches.push(format!("consumers were given {seen} of {events} events"));
        }
        Ok(verdict)
    }
}

fn create_stream(world: &World) -> Result<(), Trouble> {
    let endpoints: Vec<Vec<String>> =
        (1..).zip(world.regions()).map(|(number, _)| world.endpoints(number)).collect();
    world.clients.run(async move {
        for (index, endpoints) in endpoints.into_iter().enumerate() {
            let admin = crate::world::client(endpoints, Duration::from_secs(60))?.admin();
            if index == 0 {
                let settings = StreamSettings { partitions: PARTITIONS, ..StreamSettings::default() };
                admin.create_stream(STREAM, settings).await.context("creating the stream")?;
            }
            let until = Instant::now() + Duration::from_secs(30);
            while let Err(error) = admin.get_stream(STREAM).await {
                if Instant::now() > until {
                    return Err(Trouble::broken(format!("the stream is not known everywhere: {error}")));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    })?
}
