//! The client interface of a real node, as a client meets it: one region, one node, in this process.

mod drain;
mod flood;
mod held_disk;
mod latest;
mod publish;
mod reads;
mod refusals;
mod services;
mod streams;
mod subscribe;
mod support;
