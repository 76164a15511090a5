//! Which addresses are of the public Internet.
//!
//! The ranges are those of IANA's special-purpose address registries (RFC 6890
//! and what was added since). Of version 6 only global unicast space,
//! `2000::/3`, is public, and within it not the ranges that stand for addresses
//! of version 4.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fmt, str::FromStr};

use super::{Denial, Target};

/// What an address is that is not of the public Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// One of the machine that the daemon runs on.
    Host,
    /// The machine itself.
    Loopback,
    /// A private network, ULA included.
    Private,
    /// Of the same link only.
    LinkLocal,
    /// Where clouds keep their instances' secrets.
    Metadata,
    /// Of a carrier's network behind NAT.
    CarrierNat,
    /// For many.
    Multicast,
    /// For documentation.
    Documentation,
    /// For benchmarks.
    Benchmark,
    /// A form of version 6 that stands for an address of version 4.
    Translation,
    /// Reserved, or set aside for a protocol.
    Reserved,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "an address of the daemon's own machine",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata service",
            Self::CarrierNat => "an address of a carrier's network",
            Self::Multicast => "a multicast address",
            Self::Documentation => "an address for documentation",
            Self::Benchmark => "an address for benchmarks",
            Self::Translation => "a form of an address of version 4",
            Self::Reserved => "a reserved address",
        })
    }
}

const V4: &[(Ipv4Addr, u8, Range)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, Range::Reserved),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Range::Private),
    // Alibaba's metadata service.
    (Ipv4Addr::new(100, 100, 100, 200), 32, Range::Metadata),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Range::CarrierNat),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Range::Loopback),
    // Azure's, on a public address.
    (Ipv4Addr::new(168, 63, 129, 16), 32, Range::Metadata),
    (Ipv4Addr::new(169, 254, 169, 254), 32, Range::Metadata),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Range::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Range::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Range::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Range::Documentation),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Range::Reserved),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Range::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Range::Benchmark),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Range::Documentation),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Range::Documentation),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Range::Multicast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Range::Reserved),
];

const V6: &[(Ipv6Addr, u8, Range)] = &[
    (Ipv6Addr::LOCALHOST, 128, Range::Loopback),
    (Ipv6Addr::UNSPECIFIED, 128, Range::Reserved),
    // Addresses of version 4: compatible, NAT64, Teredo, 6to4. Mapped ones are
    // looked up as what they are.
    (v6(0, 0, 0), 96, Range::Translation),
    (NAT64, 96, Range::Translation),
    (v6(0x64, 0xff9b, 1), 48, Range::Translation),
    (v6(0x2001, 0, 0), 32, Range::Translation),
    (v6(0x2002, 0, 0), 16, Range::Translation),
    (v6(0x2001, 2, 0), 48, Range::Benchmark),
    (v6(0x2001, 0, 0), 23, Range::Reserved),
    (v6(0x2001, 0xdb8, 0), 32, Range::Documentation),
    (v6(0x3fff, 0, 0), 20, Range::Documentation),
    // Amazon's metadata service.
    (
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        128,
        Range::Metadata,
    ),
    (v6(0xfc00, 0, 0), 7, Range::Private),
    (v6(0xfe80, 0, 0), 10, Range::LinkLocal),
    (v6(0xfec0, 0, 0), 10, Range::Private),
    (v6(0xff00, 0, 0), 8, Range::Multicast),
];

/// Global unicast space.
const PUBLIC_V6: (Ipv6Addr, u8) = (v6(0x2000, 0, 0), 3);
/// Ends in the address of version 4 that it stands for (RFC 6052).
const NAT64: Ipv6Addr = v6(0x64, 0xff9b, 0);

/// The address that begins with these groups and ends in zeros.
const fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

/// What an address is; `None` when it is of the public Internet.
fn range_of(address: IpAddr) -> Option<Range> {
    match address.to_canonical() {
        IpAddr::V4(address) => V4
            .iter()
            .find(|(base, bits, _)| within_v4(address, *base, *bits))
            .map(|(_, _, range)| *range),
        IpAddr::V6(address) => V6
            .iter()
            .find(|(base, bits, _)| within_v6(address, *base, *bits))
            .map(|(_, _, range)| *range)
            .or_else(|| {
                let (base, bits) = PUBLIC_V6;
                (!within_v6(address, base, bits)).then_some(Range::Reserved)
            }),
    }
}

/// The address of version 4 that a NAT64 stands for.
fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let [.., a, b, c, d] = address.octets();
    within_v6(address, NAT64, 96).then(|| Ipv4Addr::new(a, b, c, d))
}

fn within_v4(address: Ipv4Addr, base: Ipv4Addr, bits: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    (address.to_bits() ^ base.to_bits()) & mask == 0
}

fn within_v6(address: Ipv6Addr, base: Ipv6Addr, bits: u8) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    (address.to_bits() ^ base.to_bits()) & mask == 0
}

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

/// Not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give a network as ADDRESS/BITS, 10.0.0.0/8, without bits set beyond it")]
pub struct NetworkError;

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (address, self.base) {
            (IpAddr::V4(address), IpAddr::V4(base)) => within_v4(address, base, self.bits),
            (IpAddr::V6(address), IpAddr::V6(base)) => within_v6(address, base, self.bits),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// An address alone is a network of one.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (base, bits) = text.split_once('/').unzip();
        let base: IpAddr = base.unwrap_or(text).parse().map_err(|_| NetworkError)?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| NetworkError)?,
            None => most,
        };
        let beyond = match base {
            IpAddr::V4(base) => u64::from(base.to_bits().trailing_zeros()) + u64::from(bits) < 32,
            IpAddr::V6(base) => u64::from(base.to_bits().trailing_zeros()) + u64::from(bits) < 128,
        };
        if bits > most || beyond {
            return Err(NetworkError);
        }
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// Which addresses may be dialled, by whatever name they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Networks that the operator allows although they are not public.
    pub allow_networks: Vec<Network>,
    /// Addresses of the machine that the daemon runs on; its services are not
    /// for workspaces.
    pub own: Vec<IpAddr>,
}

impl AddressRules {
    /// The addresses of a target that may be dialled, in the order given and in
    /// their one form.
    ///
    /// # Errors
    /// Addresses that are all refused. Of no addresses none is refused.
    pub fn choose(&self, target: &Target, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Denial> {
        let mut chosen = Vec::new();
        let mut refused = None;
        for address in addresses.iter().map(IpAddr::to_canonical) {
            match self.check(address) {
                Ok(()) if chosen.contains(&address) => {}
                Ok(()) => chosen.push(address),
                Err(range) => refused = refused.or(Some((address, range))),
            }
        }
        match refused {
            Some((address, range)) if chosen.is_empty() => Err(Denial::Address {
                target: target.clone(),
                address,
                range,
            }),
            Some(_) | None => Ok(chosen),
        }
    }

    fn check(&self, address: IpAddr) -> Result<(), Range> {
        let named = |network: &Network| network.contains(address);
        if self.allow_networks.iter().any(named) {
            // A network behind NAT64 is named for the public addresses that it
            // stands for, not for the private ones.
            return translated(address).map_or(Ok(()), |inner| self.check(inner.into()));
        }
        if self.own.iter().any(|own| own.to_canonical() == address) {
            return Err(Range::Host);
        }
        range_of(address).map_or(Ok(()), Err)
    }
}
