//! Topic Names, Topic Filters, the subscription table, the retained index.
