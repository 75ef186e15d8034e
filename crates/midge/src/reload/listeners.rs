//! Listeners by number, and what becomes of each.
//!
//! A connection knows its listener by a number, so a number is never another listener's. One that is closed and comes back
//! under its name has its old number again.

use std::{
    net::TcpListener,
    sync::{Arc, PoisonError, RwLock},
};

use midge_config::{Address, Listener, Loaded};
use midge_reactor::ListenerChange;
use midge_services::{ListenerLabel, ListenerLabels};

use crate::listen::{self, Listening};

/// Names of listeners over the life of a process: every reload may bring new ones.
const NUMBERS_MAX: usize = 4096;

/// One number.
#[derive(Clone, Debug)]
struct Seat {
    listener: Listener,
    /// The real address: with the port that the kernel chose.
    address: Address,
    open: bool,
}

/// All numbers given so far.
#[derive(Debug)]
pub(crate) struct Seats {
    seats: Vec<Seat>,
    directory: Directory,
}

/// The listeners for whoever shows them: names by number, and where the open ones are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    names: Arc<RwLock<Vec<String>>>,
    labels: ListenerLabels,
    addresses: Arc<RwLock<Vec<Address>>>,
}

impl Directory {
    /// What logs and statistics call a listener.
    pub(crate) fn name(&self, number: u16) -> String {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(usize::from(number)).cloned().unwrap_or_default()
    }

    /// For the admin endpoint.
    pub(crate) fn labels(&self) -> ListenerLabels {
        Arc::clone(&self.labels)
    }

    /// The real addresses of those that are open.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, seats: &[Seat]) {
        let names = seats.iter().map(|seat| seat.listener.label()).collect();
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
        let open = (0..).zip(seats).filter(|(_, seat)| seat.open);
        let addresses = open.clone().map(|(_, seat)| seat.address.clone()).collect();
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
        let labels = open.map(|(number, seat)| ListenerLabel {
            name: seat.listener.label(),
            address: seat.address.to_string(),
            number,
        });
        *self.labels.write().unwrap_or_else(PoisonError::into_inner) = labels.collect();
    }
}

/// What is to become of every number.
#[derive(Debug)]
pub(super) struct Plan {
    /// As they will be.
    seats: Vec<Seat>,
    /// The place of each in the configuration; `None`: it is not there any more.
    places: Vec<Option<usize>>,
    changes: Vec<Planned>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    Nothing,
    Open,
    Close,
    /// At another address.
    Move,
    Configure,
}

impl Seats {
    /// `listening` are the sockets of the listeners of a configuration, in its order.
    pub(crate) fn new(listeners: &[Listener], listening: &[Listening]) -> Self {
        let seats: Vec<Seat> = listeners
            .iter()
            .zip(listening)
            .map(|(listener, open)| Seat {
                listener: listener.clone(),
                address: open.address.clone(),
                open: true,
            })
            .collect();
        let directory = Directory::default();
        directory.show(&seats);
        Self { seats, directory }
    }

    pub(crate) fn directory(&self) -> Directory {
        self.directory.clone()
    }

    /// Those that are closed, as they were: clients that came by one may still be there.
    pub(super) fn closed(&self) -> Vec<Listener> {
        let closed = self.seats.iter().filter(|seat| !seat.open);
        closed.map(|seat| seat.listener.clone()).collect()
    }

    /// What the listeners of a new configuration mean for the numbers.
    pub(super) fn plan(&self, listeners: &[Listener]) -> Result<Plan, String> {
        let mut seats = self.seats.clone();
        let mut places = vec![None; seats.len()];
        let mut changes: Vec<Planned> = seats
            .iter()
            .map(|seat| if seat.open { Planned::Close } else { Planned::Nothing })
            .collect();
        for (place, listener) in listeners.iter().enumerate() {
            let label = listener.label();
            match seats.iter().position(|seat| seat.listener.label() == label) {
                None => {
                    let address = listener.address.clone();
                    seats.push(Seat { listener: listener.clone(), address, open: true });
                    places.push(Some(place));
                    changes.push(Planned::Open);
                }
                Some(number) => {
                    let seat = &mut seats[number];
                    changes[number] = match seat.open {
                        false => Planned::Open,
                        true if seat.listener.address != listener.address => Planned::Move,
                        true if seat.listener == *listener => Planned::Nothing,
                        true => Planned::Configure,
                    };
                    seat.listener = listener.clone();
                    seat.open = true;
                    places[number] = Some(place);
                }
            }
        }
        if seats.len() > NUMBERS_MAX {
            return Err(format!(
                "listeners: there have been {NUMBERS_MAX} names of listeners since the start; more need a restart"
            ));
        }
        for (seat, change) in seats.iter_mut().zip(&changes) {
            seat.open &= *change != Planned::Close;
        }
        Ok(Plan { seats, places, changes })
    }

    /// The plan counts from now on. What each shard's ring has to do.
    pub(super) fn apply(
        &mut self,
        plan: Plan,
        opened: Vec<Option<Listening>>,
        shards: u16,
    ) -> Vec<Vec<ListenerChange>> {
        let Plan { mut seats, changes, .. } = plan;
        let mut by_shard: Vec<Vec<ListenerChange>> = (0..shards).map(|_| Vec::new()).collect();
        for (number, (change, opened)) in changes.into_iter().zip(opened).enumerate() {
            let seat = &mut seats[number];
            let earlier = self.seats.get(number);
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            if matches!(change, Planned::Close | Planned::Move) {
                let close = |changes: &mut Vec<_>| changes.push(ListenerChange::Close { number });
                by_shard.iter_mut().for_each(close);
                if let Some(earlier) = earlier {
                    listen::remove_all(std::slice::from_ref(&earlier.address));
                }
            }
            if let Some(opened) = opened {
                seat.address = opened.address;
                for (changes, socket) in by_shard.iter_mut().zip(opened.sockets) {
                    changes.push(ListenerChange::Open { number, socket });
                }
            }
            if change == Planned::Configure {
                let listener = seat.listener.clone();
                if let Address::Unix(path) = &listener.address {
                    listen::set_mode(path, &listener);
                }
                let configure: Arc<dyn Fn(&TcpListener) + Send + Sync> =
                    Arc::new(move |socket| listen::configure_again(socket, &listener));
                for changes in &mut by_shard {
                    let configure = Arc::clone(&configure);
                    changes.push(ListenerChange::Configure { number, configure });
                }
            }
        }
        self.seats = seats;
        self.directory.show(&self.seats);
        by_shard
    }
}

impl Plan {
    /// The listeners by number, each with its place in the configuration.
    pub(super) fn numbered(&self) -> Vec<Option<(usize, &Listener)>> {
        let seats = self.seats.iter().zip(&self.places);
        seats.map(|(seat, place)| place.map(|place| (place, &seat.listener))).collect()
    }

    /// The listeners by number, also those that are closed: whoever came by one stays held to its limits, and is acknowledged
    /// as it was told.
    pub(super) fn all(&self) -> Vec<&Listener> {
        self.seats.iter().map(|seat| &seat.listener).collect()
    }

    /// What stands by place in the configuration, by number; of a listener that is not there any more what it had.
    pub(super) fn by_number<T: Clone>(&self, by_place: &[T], earlier: &[T]) -> Arc<[T]> {
        let number = |(number, place): (usize, &Option<usize>)| match place {
            Some(place) => by_place.get(*place).cloned(),
            None => earlier.get(number).cloned(),
        };
        self.places.iter().enumerate().filter_map(number).collect()
    }

    /// Opens what is new, or nothing.
    pub(super) fn open(
        &self,
        shards: u16,
        loaded: &Loaded,
    ) -> Result<Vec<Option<Listening>>, String> {
        let mut opened = Vec::new();
        for ((seat, place), change) in self.seats.iter().zip(&self.places).zip(&self.changes) {
            let wanted = matches!(change, Planned::Open | Planned::Move);
            match place.filter(|_| wanted) {
                None => opened.push(None),
                Some(place) => match listen::open_one(&seat.listener, shards, loaded, place) {
                    Ok(listening) => opened.push(Some(listening)),
                    Err(problem) => {
                        self.discard(opened);
                        return Err(problem);
                    }
                },
            }
        }
        Ok(opened)
    }

    /// Closes what was opened for it.
    pub(super) fn discard(&self, opened: Vec<Option<Listening>>) {
        for listening in opened.into_iter().flatten() {
            listen::remove_all(&[listening.address]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, address: &str) -> Listener {
        let mut listener = Listener::new(address.parse().expect("an address"));
        listener.name = (!name.is_empty()).then(|| name.into());
        listener
    }

    fn seats(listeners: &[Listener]) -> Seats {
        let listening: Vec<Listening> = listeners
            .iter()
            .map(|listener| Listening {
                label: listener.label(),
                address: listener.address.clone(),
                sockets: Vec::new(),
            })
            .collect();
        Seats::new(listeners, &listening)
    }

    fn numbers(changes: &[Vec<ListenerChange>]) -> Vec<String> {
        changes[0].iter().map(|change| format!("{change:?}")).collect()
    }

    /// Clients of a listener that is closed are still its clients.
    #[test]
    fn whoever_came_by_a_closed_listener_keeps_its_settings() {
        let mut strict = listener("b", "127.0.0.1:2");
        strict.limits.connections_max = 7;
        let first = [listener("a", "127.0.0.1:1"), strict.clone()];
        let mut seats = seats(&first);
        let plan = seats.plan(&first[..1]).expect("few names");
        assert_eq!(plan.all(), [&first[0], &strict]);
        seats.apply(plan, vec![None, None], 1);
        assert_eq!(seats.closed(), [strict]);
        // What it comes back with counts.
        let again = [first[0].clone(), listener("b", "127.0.0.1:2")];
        let plan = seats.plan(&again).expect("few names");
        assert_eq!(plan.all(), [&again[0], &again[1]]);
    }

    /// Through coming, going, moving and coming back, a number means one name.
    #[test]
    fn numbers_are_for_life() {
        let first = [listener("", "127.0.0.1:1"), listener("b", "127.0.0.1:2")];
        let mut seats = seats(&first);
        let mut tuned = listener("c", "127.0.0.1:3");
        let steps: [(Vec<Listener>, &[&str], &[&str]); 5] = [
            (first.to_vec(), &[], &["127.0.0.1:1", "127.0.0.1:2"]),
            (
                vec![tuned.clone(), first[1].clone()],
                &["Close(0)", "Open(2)"],
                &["127.0.0.1:2", "127.0.0.1:3"],
            ),
            (
                {
                    tuned.backlog = 7;
                    vec![listener("b", "127.0.0.1:4"), tuned.clone()]
                },
                &["Close(1)", "Open(1)", "Configure(2)"],
                &["127.0.0.1:4", "127.0.0.1:3"],
            ),
            (vec![tuned.clone()], &["Close(1)"], &["127.0.0.1:3"]),
            (vec![first[0].clone(), tuned], &["Open(0)"], &["127.0.0.1:1", "127.0.0.1:3"]),
        ];
        for (listeners, expected, addresses) in steps {
            let plan = seats.plan(&listeners).expect("few names");
            let opened = plan
                .changes
                .iter()
                .zip(&plan.seats)
                .map(|(change, seat)| {
                    let wanted = matches!(change, Planned::Open | Planned::Move);
                    wanted.then(|| Listening {
                        label: seat.listener.label(),
                        address: seat.listener.address.clone(),
                        sockets: vec![TcpListener::bind("127.0.0.1:0").expect("a free port")],
                    })
                })
                .collect();
            assert_eq!(numbers(&seats.apply(plan, opened, 1)), expected, "{listeners:?}");
            let shown = seats.directory().addresses();
            assert_eq!(shown.iter().map(ToString::to_string).collect::<Vec<_>>(), addresses);
        }
        let directory = seats.directory();
        assert_eq!(
            [0, 1, 2, 3].map(|number| directory.name(number)),
            ["127.0.0.1:1", "b", "c", ""]
        );
    }

    #[test]
    fn names_have_a_bound() {
        let mut seats = seats(&[]);
        seats.seats = vec![
            Seat {
                listener: listener("", "127.0.0.1:1"),
                address: "127.0.0.1:1".parse::<std::net::SocketAddr>().expect("an address").into(),
                open: false,
            };
            NUMBERS_MAX
        ];
        assert!(seats.plan(&[listener("", "127.0.0.1:1")]).is_ok());
        let problem = seats.plan(&[listener("", "127.0.0.1:2")]).expect_err("one too many");
        assert!(problem.contains("restart"), "{problem}");
    }
}
