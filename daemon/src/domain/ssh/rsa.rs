//! Private keys of RSA.

use ring::{
    rsa::{KeyPair, KeyPairComponents, PublicKeyComponents},
    signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding},
};

use super::wire::{Reader, unsigned};

/// How signatures of RSA may be made, the stronger first. What hashes with SHA-1 is
/// none of them.
pub(super) const ALGORITHMS: [&str; 2] = ["rsa-sha2-512", "rsa-sha2-256"];

/// How an algorithm of [`ALGORITHMS`] pads and hashes.
pub(super) fn padding(algorithm: &str) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        "rsa-sha2-512" => Some(&RSA_PKCS1_SHA512),
        "rsa-sha2-256" => Some(&RSA_PKCS1_SHA256),
        _ => None,
    }
}

/// The numbers of a key as OpenSSH writes them.
pub(super) struct Numbers<'a> {
    pub(super) n: &'a [u8],
    pub(super) e: &'a [u8],
    d: &'a [u8],
    q_inverse: &'a [u8],
    p: &'a [u8],
    q: &'a [u8],
}

impl<'a> Numbers<'a> {
    /// Reads them after the name of the kind.
    pub(super) fn read(mut reader: Reader<'a>) -> Option<Self> {
        Some(Self {
            n: reader.string()?,
            e: reader.string()?,
            d: reader.string()?,
            q_inverse: reader.string()?,
            p: reader.string()?,
            q: reader.string()?,
        })
    }

    /// The pair; `None` when they do not belong together, or are not of 2048 to
    /// 4096 bits.
    pub(super) fn pair(&self) -> Option<KeyPair> {
        let less_one = |prime: &[u8]| {
            let mut number = unsigned(prime).to_vec();
            // Primes are odd.
            *number.last_mut()? -= number.last()? & 1;
            Some(number)
        };
        let (p_less_one, q_less_one) = (less_one(self.p)?, less_one(self.q)?);
        let d_p = remainder(self.d, &p_less_one);
        let d_q = remainder(self.d, &q_less_one);
        let components = KeyPairComponents {
            public_key: PublicKeyComponents {
                n: unsigned(self.n),
                e: unsigned(self.e),
            },
            d: unsigned(self.d),
            p: unsigned(self.p),
            q: unsigned(self.q),
            dP: unsigned(&d_p),
            dQ: unsigned(&d_q),
            qInv: unsigned(self.q_inverse),
        };
        KeyPair::from_components(&components).ok()
    }
}

/// What is left of a number when another is taken from it as often as it goes; both
/// in big-endian order. The files leave out what is easily computed from the rest.
fn remainder(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    // One byte more than the modulus has: twice the rest may need it.
    let modulus: Vec<u8> = [&[0], modulus].concat();
    let mut rest = vec![0_u8; modulus.len()];
    for bit in number
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest >= modulus {
            let mut borrow = false;
            for (byte, less) in rest.iter_mut().zip(&modulus).rev() {
                let (once, under) = byte.overflowing_sub(*less);
                let (twice, under_again) = once.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (twice, under || under_again);
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_remainder_is_what_division_leaves(number: u128, modulus in 1_u64..) {
            let rest = remainder(&number.to_be_bytes(), &modulus.to_be_bytes());
            let expected = (number % u128::from(modulus)).to_be_bytes();
            prop_assert_eq!(unsigned(&rest), unsigned(&expected));
        }
    }
}
