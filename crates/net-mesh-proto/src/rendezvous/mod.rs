//! placeholder
#![allow(missing_docs, dead_code, unused)]
use crate::id::NodeId;
use crate::membership::{Member, Record};
use crate::outbox::Outbox;
use crate::peer::Local;
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use core::time::Duration;
#[derive(Debug)]
pub struct Rendezvous;
pub struct View<'a> {
    pub local: &'a Local,
    pub own: &'a Record,
    pub members: &'a BTreeMap<NodeId, Member>,
    pub mediators: &'a dyn Fn(&NodeId) -> &'a [NodeId],
    pub rtt: &'a dyn Fn(&NodeId) -> Option<Duration>,
}
#[derive(Clone, Debug)]
pub struct Attempt;
#[derive(Debug)]
pub enum Event {
    Found { peer: NodeId, addr: SocketAddr },
    Ended(Box<Attempt>),
}
impl Rendezvous {
    pub fn new(_: NodeId, _: Rng) -> Self {
        Self
    }
    pub fn seek(&mut self, _: Time, _: NodeId, _: View<'_>, _: &mut Outbox<Event>) {}
    pub fn handle_timeout(&mut self, _: Time, _: View<'_>, _: &mut Outbox<Event>) {}
    pub fn network_changed(&mut self, _: Time) {}
    pub fn member_changed(&mut self, _: Time, _: NodeId) {}
    pub fn forget(&mut self, _: &NodeId) {}
    pub fn poll_timeout(&self) -> Option<Deadline> {
        None
    }
}
