//! stub
use crate::packet::Packet;
#[derive(Debug)]
pub struct Filters;
impl Filters {
    pub fn matches(&mut self, _: &Packet<'_>) -> bool {
        true
    }
}
