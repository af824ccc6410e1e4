//! Views that answer the queries of older services.

/// Views that answer the queries of an older service, each kind in a schema of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Views {
    /// `orders`, `delivery`, `payment`, `items` and their other names.
    FourTables,
    /// `orders` with its parts as JSON.
    OneTable,
    /// `orders` with a payload.
    EventDriven,
}

impl Views {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::FourTables, Self::OneTable, Self::EventDriven];

    /// Their name on a command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FourTables => "four-tables",
            Self::OneTable => "one-table",
            Self::EventDriven => "event-driven",
        }
    }

    /// What their schema is called after the name of the service's, or after `orders`.
    pub(super) fn layout(self) -> &'static str {
        match self {
            Self::FourTables => "four_tables",
            Self::OneTable => "one_table",
            Self::EventDriven => "event_driven",
        }
    }
}
