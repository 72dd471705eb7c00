//! x
use crate::plan::Address;
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub inode: u64,
    pub address: Address,
}
