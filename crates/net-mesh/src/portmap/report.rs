//! A line in the log for everything that happens to the port of the router, and its count.

use net_mesh_proto::portmap::Report;

/// Logs and counts `report`; `name` is the name of the member in it, if there is one.
pub(crate) fn report(report: &Report, name: &str) {
    let word = match report {
        Report::NoRouter => "no_router",
        Report::Refused { .. } => "refused",
        Report::Mapped { .. } => "mapped",
        Report::Renewed { .. } => "renewed",
        Report::NotRenewed { .. } => "not_renewed",
        Report::Proven { .. } => "proven",
        Report::Lost { .. } => "lost",
        Report::Useless { .. } => "useless",
        Report::Released { .. } => "released",
        Report::NotReleased { .. } => "not_released",
        Report::Open { .. } => "open",
        Report::Closed { .. } => "closed",
    };
    crate::metrics::of_port_mapping_event(word);
    match report {
        Report::NoRouter => tracing::info!("no router maps ports here"),
        Report::Refused { protocol, failure, detail } => {
            tracing::warn!(%protocol, reason = failure.words(), detail, "the router does not map a port");
        }
        Report::Mapped { protocol, granted } => tracing::info!(
            %protocol, gateway = %granted.gateway, external = %granted.external,
            lease_s = granted.lease.map(|lease| lease.as_secs()), "port mapped"
        ),
        Report::Renewed { protocol, granted, forgotten: true } => tracing::warn!(
            %protocol, gateway = %granted.gateway, external = %granted.external,
            "the router had forgotten the port mapping, and made it again"
        ),
        Report::Renewed { protocol, granted, forgotten: false } => tracing::debug!(
            %protocol, gateway = %granted.gateway, external = %granted.external,
            lease_s = granted.lease.map(|lease| lease.as_secs()), "port mapping renewed"
        ),
        Report::NotRenewed { external, failure, detail } => tracing::warn!(
            %external, reason = failure.words(), detail, "port mapping not renewed; it is tried again"
        ),
        Report::Proven { external, by } => {
            tracing::info!(%external, by = %by.short(), name, "port mapping proven: others are told of it");
        }
        Report::Lost { external, why } => tracing::warn!(%external, why, "port mapping lost"),
        Report::Useless { external, why } => {
            tracing::warn!(%external, reason = %why, "port mapping useless: others are not told of it");
        }
        Report::Released { external } => tracing::info!(%external, "port mapping released"),
        Report::NotReleased { external, failure, detail, for_ever } => tracing::warn!(
            %external, reason = failure.words(), detail,
            hint = if *for_ever { "delete it in the router's settings" } else { "it ends with its lease" },
            "port mapping not released"
        ),
        Report::Open { addr, by } => {
            tracing::info!(%addr, by = %by.short(), name, "the port is open to everyone: others are told");
        }
        Report::Closed { addr } => tracing::warn!(%addr, "the port is not open to everyone any more"),
    }
}
