//! The connections from elsewhere: how many there may be, and which of them goes
//! when there are too many.
//!
//! A connection on which nobody has proved who they are is worth nothing: it is
//! closed after a while, and the oldest of its address goes when a new one needs
//! its place. So those who open many and say nothing, or say it slowly, are in
//! nobody's way but their own. The unix socket is not counted at all.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionBounds {
    /// Of everybody.
    pub total: usize,
    /// Of one address.
    pub per_address: usize,
    /// Of one token.
    pub per_token: usize,
}

/// Every connection of now; a cheap handle.
#[derive(Clone)]
pub(super) struct Connections {
    bounds: ConnectionBounds,
    /// Held for a look or a change.
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// By age, the oldest first.
    live: BTreeMap<u64, Live>,
}

struct Live {
    address: IpAddr,
    /// What names the token that was presented on it last.
    proved: Option<String>,
    close: CancellationToken,
}

impl Connections {
    pub(super) fn new(bounds: ConnectionBounds) -> Self {
        Self {
            bounds,
            state: Arc::default(),
        }
    }

    /// Takes in a connection; `None` when there is no room and nobody to go.
    pub(super) fn admit(&self, address: SocketAddr) -> Option<Arc<Connection>> {
        let address = address.ip().to_canonical();
        let mut state = lock(&self.state);
        let of_address = state.live.values().filter(|it| it.address == address);
        if of_address.count() >= self.bounds.per_address {
            state.close_oldest_unproved(address)?;
        }
        if state.live.len() >= self.bounds.total {
            let crowd = state.most_unproved()?;
            state.close_oldest_unproved(crowd)?;
        }
        let (id, close) = (state.next, CancellationToken::new());
        state.next += 1;
        let live = Live {
            address,
            proved: None,
            close: close.clone(),
        };
        state.live.insert(id, live);
        Some(Arc::new(Connection {
            id,
            close,
            connections: self.clone(),
        }))
    }

    /// Closes every connection on which nobody has proved who they are.
    pub(super) fn close_unproved(&self) {
        lock(&self.state).live.retain(|_, live| {
            if live.proved.is_none() {
                live.close.cancel();
            }
            live.proved.is_some()
        });
    }
}

impl State {
    fn close_oldest_unproved(&mut self, address: IpAddr) -> Option<()> {
        let mut oldest = self.live.iter();
        let oldest = oldest.find(|(_, it)| it.proved.is_none() && it.address == address);
        let id = *oldest?.0;
        self.live.remove(&id)?.close.cancel();
        Some(())
    }

    /// The address with the most connections on which nobody has proved anything.
    fn most_unproved(&self) -> Option<IpAddr> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for live in self.live.values().filter(|it| it.proved.is_none()) {
            *counts.entry(live.address).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(address, _)| address)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection; counted until it is dropped.
pub(super) struct Connection {
    id: u64,
    close: CancellationToken,
    connections: Connections,
}

/// What a token proves on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// What is known.
    Known,
    /// Who is there.
    New,
    /// Nothing: it has so many connections already.
    TooMany {
        /// How many it may have.
        most: usize,
    },
}

impl Connection {
    /// A token that is good was presented on it.
    pub(super) fn prove(&self, token: &str) -> Proof {
        let most = self.connections.bounds.per_token;
        let mut state = lock(&self.connections.state);
        let is_of = |live: &Live| live.proved.as_deref() == Some(token);
        match state.live.get(&self.id) {
            Some(live) if is_of(live) => return Proof::Known,
            Some(_) if state.live.values().filter(|it| is_of(it)).count() >= most => {
                return Proof::TooMany { most };
            }
            Some(_) | None => {}
        }
        if let Some(live) = state.live.get_mut(&self.id) {
            live.proved = Some(token.to_owned());
        }
        Proof::New
    }

    /// Whether somebody has proved who they are.
    pub(super) fn is_proved(&self) -> bool {
        let state = lock(&self.connections.state);
        state
            .live
            .get(&self.id)
            .is_some_and(|it| it.proved.is_some())
    }

    /// Ready when it has to go.
    pub(super) fn closed(&self) -> WaitForCancellationFutureOwned {
        self.close.clone().cancelled_owned()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.connections.state).live.remove(&self.id);
    }
}

/// The other end of a connection, as every request on it tells.
#[derive(Clone)]
pub(super) struct Peer {
    /// Where it comes from.
    pub(super) address: SocketAddr,
    /// Whether what is sent on it is encrypted.
    pub(super) tls: bool,
    /// The connection.
    pub(super) connection: Arc<Connection>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(total: usize, per_address: usize, per_token: usize) -> Connections {
        Connections::new(ConnectionBounds {
            total,
            per_address,
            per_token,
        })
    }

    fn from(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 1))
    }

    fn is_open(connection: &Connection) -> bool {
        !connection.close.is_cancelled()
    }

    #[test]
    fn the_oldest_that_proved_nothing_goes_and_who_has_proved_stays() {
        let all = connections(100, 3, 9);
        let proved = all.admit(from(1)).unwrap();
        assert_eq!(proved.prove("a"), Proof::New);
        assert_eq!(proved.prove("a"), Proof::Known);
        let idle: Vec<_> = (0..20).map(|_| all.admit(from(1)).unwrap()).collect();
        let open: Vec<bool> = idle.iter().map(|it| is_open(it)).collect();
        assert_eq!(open.iter().filter(|open| **open).count(), 2);
        assert!(open[18] && open[19] && is_open(&proved) && proved.is_proved());
    }

    #[test]
    fn no_room_is_made_among_those_who_have_proved_who_they_are() {
        let all = connections(3, 9, 9);
        let held: Vec<_> = (0..3).map(|_| all.admit(from(1)).unwrap()).collect();
        for connection in &held {
            connection.prove("a");
        }
        assert!(all.admit(from(2)).is_none());
        drop(held);
        assert!(all.admit(from(2)).is_some());
    }

    #[test]
    fn a_crowd_of_one_address_goes_before_the_few_of_others() {
        let all = connections(4, 9, 9);
        let first = all.admit(from(1)).unwrap();
        let crowd: Vec<_> = (0..50).map(|_| all.admit(from(2)).unwrap()).collect();
        assert!(is_open(&first));
        assert_eq!(crowd.iter().filter(|it| is_open(it)).count(), 3);
    }

    #[test]
    fn a_token_has_so_many_connections_and_others_do_not_count() {
        let all = connections(9, 9, 1);
        let (first, second) = (all.admit(from(1)).unwrap(), all.admit(from(1)).unwrap());
        assert_eq!(first.prove("a"), Proof::New);
        assert_eq!(second.prove("a"), Proof::TooMany { most: 1 });
        assert_eq!(second.prove("b"), Proof::New);
        drop(first);
        assert_eq!(all.admit(from(1)).unwrap().prove("a"), Proof::New);
    }
}
