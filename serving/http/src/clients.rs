//! How many connections each client has open.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The clients of one listener.
#[derive(Debug)]
pub(crate) struct Clients {
    each_max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Clients {
    /// Each may have so many connections open.
    pub(crate) fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { each_max, open: Mutex::default() })
    }

    /// One more connection of the client at this address; none if it has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Visit> {
        let client = client_of(address);
        let mut open = self.open();
        let count = open.entry(client).or_default();
        if *count >= self.each_max {
            if *count == 0 {
                open.remove(&client);
            }
            return None;
        }
        *count += 1;
        drop(open);
        Some(Visit { clients: self.clone(), client })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics under this lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection for as long as it is open.
#[derive(Debug)]
pub(crate) struct Visit {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// An IPv4 address is one client. Of IPv6 it is the first 64 bits, since whoever has one address
/// there has all the others below them.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_count_and_gets_it_back() {
        let clients = Clients::new(2);
        let enter = |address: &str| clients.enter(address.parse().unwrap());
        let (first, second) = (enter("10.0.0.1"), enter("::ffff:10.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(enter("10.0.0.1").is_none(), "however the address is written");
        assert!(enter("10.0.0.2").is_some(), "another client");
        drop(first);
        let third = enter("10.0.0.1");
        assert!(third.is_some());
        let network = [enter("2001:db8::1"), enter("2001:db8::ffff:2")];
        assert!(network.iter().all(Option::is_some));
        assert!(enter("2001:db8:0:0:9::").is_none(), "the same network");
        assert!(enter("2001:db8:0:1::1").is_some(), "another one");
        drop((second, third, network));
        assert!(clients.open().is_empty(), "nothing is kept of who left");
        assert!(Clients::new(0).enter("10.0.0.1".parse().unwrap()).is_none());
    }
}
