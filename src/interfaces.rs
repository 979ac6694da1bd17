//! The interfaces that packets come from, by number.
//!
//! The rule: the list only grows. A source registers an interface before it offers the first packet
//! of it, so whoever reads a packet's number later finds the description.

use std::sync::{Arc, RwLock};

use crate::packet::LinkType;

/// What readers of a capture want to know of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    /// Its name: of the device, or as a capture file gives it; may be empty for a file without names.
    pub name: String,
    /// What the first byte of its packets is.
    pub link_type: LinkType,
    /// The longest packet it captures, in bytes; 0 where there is no limit.
    pub snaplen: u32,
    /// The filter its packets passed, in pcap-filter syntax.
    pub filter: Option<String>,
}

/// A growing list of interfaces, shared by sources (who add) and sinks (who look up).
#[derive(Clone, Debug, Default)]
pub struct Interfaces(Arc<RwLock<Vec<Interface>>>);

impl Interfaces {
    /// Adds `interface`, or finds the same one already there, and returns its number.
    ///
    /// Returns `None` when 65,536 are registered already.
    pub fn register(&self, interface: Interface) -> Option<u16> {
        let mut list = self
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = list.iter().position(|known| *known == interface) {
            return u16::try_from(found).ok();
        }
        let number = u16::try_from(list.len()).ok()?;
        list.push(interface);
        Some(number)
    }

    /// The interface with this number.
    pub fn get(&self, number: u16) -> Option<Interface> {
        let list = self
            .0
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        list.get(usize::from(number)).cloned()
    }

    /// How many are registered.
    pub fn len(&self) -> usize {
        self.0
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .len()
    }

    /// Whether none is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
