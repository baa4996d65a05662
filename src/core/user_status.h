// What a person chooses for all sessions: a status, a message, or to appear offline; the rules behind set_user_status().
//
// A user who has chosen to be invisible is two users. The one that others see is offline, with sessions that have ended, and
// nothing happens to it while the choice lasts. The other one has the sessions that go on: the rules of rules.h apply to it
// as to any user, and its events are told to nobody.
#pragma once

#include "rules.h"

namespace presence {

// Both visible before and after. The rows of sessions that count repeat the choice, and are to be written. True: it is another
// one than before.
bool choose(User &user, SessionGroup &group, const StatusChoice &choice, Reason reason, Time now,
            EventList &events) noexcept;

// The user comes into view, with the sessions that have gone on meanwhile: as if each of them began now. Those that have not
// stay as they are.
void reveal(User &user, std::span<Session *> sessions, const StatusChoice &choice, Time now,
            EventList &events) noexcept;

// What the sessions that nobody sees add up to. Without events: there are none to tell.
void sum_up(User &user, std::span<Session *> sessions) noexcept;

}  // namespace presence
