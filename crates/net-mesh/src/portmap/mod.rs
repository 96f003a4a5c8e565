//! The port of the router: asking it for one, and what the operator reads about that.
//!
//! What to ask and when is decided in [`net_mesh_proto::portmap`]; here it is done, if the program was built for it
//! (feature `port-mapping`) and the operator wants it.
//!
//! | file | the question it answers |
//! |---|---|
//! | `gateway` | which router is this host's next hop? |
//! | `pcp`, `upnp` | how is it asked in each protocol? |
//! | `ssdp` | which UPnP device is that router? |
//! | `router` | what came of one request? |
//! | `asker`, `worker` | the thread that does so |
//! | `ledger` | what is open on routers? |
//! | `info`, `report` | what does the operator read? |

mod asker;
#[cfg(feature = "port-mapping")]
mod gateway;
mod info;
mod ledger;
#[cfg(feature = "port-mapping")]
mod pcp;
mod report;
#[cfg(feature = "port-mapping")]
mod router;
#[cfg(feature = "port-mapping")]
mod ssdp;
#[cfg(all(test, feature = "port-mapping"))]
mod tests;
#[cfg(feature = "port-mapping")]
mod upnp;
#[cfg(feature = "port-mapping")]
mod worker;

pub(crate) use asker::{Asker, RELEASE_LIMIT};
pub use info::{PortMapping, PortMappingState};
pub(crate) use ledger::Ledger;
pub(crate) use report::report;
