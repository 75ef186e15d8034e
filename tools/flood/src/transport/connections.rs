//! Every connection's layers, between the net rings and the swarm.
//!
//! A net ring has one send of a connection in flight. Here two want to say something, the swarm and the layers
//! themselves, so what comes while a send is in flight waits here, in order.

use midge_netring::{NetRing, Slot};
use midge_output::Output;

use super::{Flow, Layer, Transport};
use crate::statistics::Failure;

/// The layers of all clients, by client number.
#[derive(Debug)]
pub(crate) struct Connections {
    transport: Transport,
    table: Vec<Option<Box<Entry>>>,
    /// The bytes of MQTT of the latest receive.
    plain: Vec<u8>,
    handshakes: Handshakes,
}

/// Handshakes of TLS that came to their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handshakes {
    /// With a certificate and a signature.
    pub full: u64,
    /// Of an earlier session.
    pub resumed: u64,
}

#[derive(Debug)]
struct Entry {
    layer: Layer,
    told: bool,
    /// Waits for the send in flight.
    pending: Box<Output>,
    /// The swarm's output, which it gets back when its bytes have gone out; and whether they are in flight.
    owed: Option<(Box<Output>, bool)>,
    sending: bool,
}

/// What came of received bytes.
#[derive(Debug)]
pub(crate) struct News<'a> {
    /// MQTT can be spoken from now on.
    pub is_up: bool,
    /// Bytes of MQTT.
    pub plain: &'a [u8],
    /// The connection has ended: in good order, or by this.
    pub end: Option<Option<Failure>>,
}

impl Connections {
    pub(crate) fn new(transport: Transport, clients: usize) -> Self {
        let mut table = Vec::new();
        table.resize_with(clients, || None);
        Self { transport, table, plain: Vec::new(), handshakes: Handshakes::default() }
    }

    /// What came to its end so far.
    pub(crate) fn handshakes(&self) -> Handshakes {
        self.handshakes
    }

    /// TCP is up: the layers begin.
    pub(crate) fn begin(
        &mut self,
        client: u32,
        slot: Slot,
        ring: &mut NetRing,
    ) -> Result<(), Failure> {
        let mut pending = Box::<Output>::default();
        let layer = Layer::open(&self.transport, pending.buffer())?;
        let entry = Entry { layer, told: false, pending, owed: None, sending: false };
        let entry = self.table[client as usize].insert(Box::new(entry));
        entry.kick(slot, ring);
        Ok(())
    }

    /// Bytes of the socket.
    pub(crate) fn received(&mut self, client: u32, bytes: &[u8]) -> News<'_> {
        self.plain.clear();
        let Some(entry) = &mut self.table[client as usize] else {
            return News { is_up: false, plain: &[], end: None };
        };
        let outcome = entry.layer.receive(bytes, &mut self.plain, entry.pending.buffer());
        let is_up = !entry.told && entry.layer.is_ready();
        entry.told |= is_up;
        if is_up {
            match entry.layer.is_resumed() {
                Some(true) => self.handshakes.resumed += 1,
                Some(false) => self.handshakes.full += 1,
                None => {}
            }
        }
        let end = match outcome {
            Ok(Flow::Open) => None,
            Ok(Flow::Ended) => Some(None),
            Err(failure) => Some(Some(failure)),
        };
        News { is_up, plain: &self.plain, end }
    }

    /// Sends what the layers have to say, if nothing is in flight.
    pub(crate) fn flush(&mut self, client: u32, slot: Slot, ring: &mut NetRing) {
        if let Some(entry) = &mut self.table[client as usize] {
            entry.kick(slot, ring);
        }
    }

    /// The swarm's output.
    pub(crate) fn send(
        &mut self,
        client: u32,
        slot: Slot,
        output: Box<Output>,
        ring: &mut NetRing,
    ) -> Result<(), Failure> {
        let Some(entry) = &mut self.table[client as usize] else { return Ok(()) };
        entry.layer.send(&output, entry.pending.buffer())?;
        entry.owed = Some((output, false));
        entry.kick(slot, ring);
        Ok(())
    }

    /// A send is done. The swarm's output, if its bytes were in it.
    pub(crate) fn sent(
        &mut self,
        client: u32,
        slot: Slot,
        mut output: Box<Output>,
        ring: &mut NetRing,
    ) -> Option<Box<Output>> {
        let entry = self.table[client as usize].as_deref_mut()?;
        entry.sending = false;
        let theirs = entry.owed.take_if(|(_, in_flight)| *in_flight);
        output.recycle();
        if entry.pending.is_empty() {
            entry.pending = output;
        } else {
            entry.kick(slot, ring);
        }
        theirs.map(|(output, _)| output)
    }

    /// The connection is closed.
    pub(crate) fn forget(&mut self, client: u32) {
        self.table[client as usize] = None;
    }
}

impl Entry {
    fn kick(&mut self, slot: Slot, ring: &mut NetRing) {
        if self.sending || self.pending.is_empty() {
            return;
        }
        self.sending = true;
        if let Some((_, in_flight)) = &mut self.owed {
            *in_flight = true;
        }
        ring.send(slot, std::mem::take(&mut self.pending));
    }
}
