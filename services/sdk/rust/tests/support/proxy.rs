//! A wire that breaks: forwards TCP, and cuts each connection after a random number of bytes, wherever that falls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub struct CutProxy {
    pub endpoint: String,
    cuts: Arc<AtomicU64>,
    /// The most bytes that a connection carries; 0: as many as it likes.
    most: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl CutProxy {
    pub async fn start(target: SocketAddr, seed: u64, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (cuts, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(most)));
        let (counter, limit) = (Arc::clone(&cuts), Arc::clone(&most));
        let task = tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let most = limit.load(Ordering::Relaxed);
                let budget = if most == 0 { usize::MAX } else { rng.random_range(most / 20..=most) };
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    if forward(near, far, budget).await {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { endpoint, cuts, most, task }
    }

    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// New connections live.
    pub fn heal(&self) {
        self.most.store(0, Ordering::Relaxed);
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// True: it was cut.
async fn forward(mut near: TcpStream, mut far: TcpStream, mut budget: usize) -> bool {
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let moved = tokio::select! {
            read = near.read(&mut up) => move_on(read, &up, &mut far, &mut budget).await,
            read = far.read(&mut down) => move_on(read, &down, &mut near, &mut budget).await,
        };
        if !moved {
            return budget == 0;
        }
    }
}

async fn move_on(read: std::io::Result<usize>, bytes: &[u8], to: &mut TcpStream, budget: &mut usize) -> bool {
    let read = match read {
        Ok(read) if read > 0 => read.min(*budget),
        _ => return false,
    };
    *budget -= read;
    to.write_all(&bytes[..read]).await.is_ok() && *budget > 0
}
