// Reports: what the feed told is added up to small tables, before retention removes it. Lives here: what is counted, and up to
// where the feed has been read. Does not live here: when it is done (the worker, the scheduled run), and how the tables are
// shown, which is views of the install script.
#pragma once

#include "../core/rules.h"
#include "server.h"

namespace presence {

// All in one transaction, within owner work; where somebody else is at work on the feed, or a dump is being read, nothing is
// done, which is made up for by the next run. True: there is more.
bool write_reports(Time budget);
// The same with the feed's locks held.
void write_reports_now(Time budget);
// Events after this one are not in the reports yet; PG_INT64_MAX where none are written.
std::int64_t reported_seq();
// What is past its retention.
void forget_old_reports();

}  // namespace presence
