//! Every setting: those of the parts, put together.

use std::sync::LazyLock;

use crate::app::{self, Config};
use crate::setting::{Declared, Setting};
use crate::{access, cache, grpc, http, ingest, nats, read, redis, source, stan, store, tls};

/// A setting as it is applied to the configuration as a whole.
pub type Composed = Declared<ApplyToAll>;

type ApplyToAll = Box<dyn Fn(&mut Config, &[String]) -> Result<(), String> + Send + Sync>;

/// Every setting there is, in the order of `--help`.
pub static SETTINGS: LazyLock<Vec<Composed>> = LazyLock::new(|| {
    let mut all = Vec::new();
    add(&mut all, http::settings::SETTINGS, |config| &mut config.http);
    add(&mut all, grpc::settings::SETTINGS, |config| &mut config.grpc);
    add(&mut all, app::settings::SETTINGS, |config| config);
    add(&mut all, tls::settings::SETTINGS, |config| &mut config.tls);
    add(&mut all, access::settings::SETTINGS, |config| &mut config.access);
    add(&mut all, store::settings::SETTINGS, |config| &mut config.store);
    #[cfg(feature = "kafka")]
    add(&mut all, crate::kafka::settings::SETTINGS, |config| &mut config.kafka);
    #[cfg(not(feature = "kafka"))]
    add(&mut all, WITHOUT_KAFKA, |config| config);
    add(&mut all, redis::settings::SETTINGS, |config| &mut config.redis);
    add(&mut all, nats::settings::SETTINGS, |config| &mut config.nats);
    add(&mut all, stan::settings::SETTINGS, |config| &mut config.stan);
    add(&mut all, ingest::settings::SETTINGS, |config| &mut config.ingest);
    add(&mut all, source::settings::SETTINGS, |config| &mut config.inbox);
    add(&mut all, cache::settings::SETTINGS, |config| &mut config.cache);
    add(&mut all, read::settings::SETTINGS, |config| &mut config.read);
    all
});

/// That it is not there is told where it is set.
#[cfg(not(feature = "kafka"))]
const WITHOUT_KAFKA: &[Setting<Config>] = &[Setting {
    key: "kafka.brokers",
    flag: "kafka",
    env: &["KAFKA_BROKERS"],
    value: "BROKERS",
    help: "Kafka to take orders from; not in this build",
    apply: |_, _| Err("this build has no Kafka".into()),
    ..Setting::PLAIN
}];

/// Adds the settings of a part. `part` finds its configuration.
fn add<C: 'static>(all: &mut Vec<Composed>, settings: &[Setting<C>], part: fn(&mut Config) -> &mut C) {
    all.extend(settings.iter().map(|setting| {
        setting.applied_by(|apply| -> ApplyToAll { Box::new(move |config, values| apply(part(config), values)) })
    }));
}

/// A setting by its key.
///
/// # Panics
/// There is none with this key.
pub(super) fn setting(key: &str) -> &'static Composed {
    SETTINGS.iter().find(|setting| setting.key == key).expect("a key of a setting")
}
