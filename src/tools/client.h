// What the parts of presence_tail have in common: how things end, waiting that a signal interrupts, the connection, the screen.
// No SQL of any part lives here.
#pragma once

#include <libpq-fe.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <poll.h>
#include <unistd.h>

namespace presence::tools {

using std::chrono::milliseconds;

inline constexpr milliseconds answer_timeout{60000};  // a server silent for longer than this is gone
inline constexpr milliseconds first_pause{100};       // between attempts to connect again ...
inline constexpr milliseconds longest_pause{5000};    // ... doubling up to this

// ---------------------------------------------------------------------------------------------------------------
// How things end
// ---------------------------------------------------------------------------------------------------------------

struct Stopped {};  // asked to stop by a signal, or nobody reads our output any more

struct ConnectionLost : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct QueryFailed : std::runtime_error {
    QueryFailed(const std::string &message, std::string state) : std::runtime_error(message), sqlstate(std::move(state))
    {
    }
    std::string sqlstate;
};

inline std::string trimmed(std::string text)
{
    while (!text.empty() && (text.back() == '\n' || text.back() == ' '))
        text.pop_back();
    return text;
}

inline std::string first_line(const std::string &text) { return text.substr(0, text.find('\n')); }

inline void complain(const std::string &text) { std::fprintf(stderr, "presence_tail: %s\n", text.c_str()); }

// ---------------------------------------------------------------------------------------------------------------
// Waiting. The signals are blocked except inside ppoll, so none can slip in between the test and the wait.
// ---------------------------------------------------------------------------------------------------------------

inline volatile std::sig_atomic_t stop_requested = 0;

class Waiter {
public:
    Waiter()
    {
        struct sigaction action = {};
        action.sa_handler = [](int) { stop_requested = 1; };
        sigemptyset(&action.sa_mask);
        sigaction(SIGINT, &action, nullptr);
        sigaction(SIGTERM, &action, nullptr);
        signal(SIGPIPE, SIG_IGN);

        sigset_t stopping;
        sigemptyset(&stopping);
        sigaddset(&stopping, SIGINT);
        sigaddset(&stopping, SIGTERM);
        sigprocmask(SIG_BLOCK, &stopping, &while_waiting_);
        sigdelset(&while_waiting_, SIGINT);
        sigdelset(&while_waiting_, SIGTERM);
    }

    // Waits until the socket is ready (true) or the time has passed (false). Socket -1: only waits.
    bool wait(int socket, short events, milliseconds timeout) const
    {
        const auto end = std::chrono::steady_clock::now() + timeout;
        for (;;) {
            if (stop_requested)
                throw Stopped{};
            const auto left =
                std::max(milliseconds{0}, std::chrono::ceil<milliseconds>(end - std::chrono::steady_clock::now()));
            const timespec time{left.count() / 1000, (left.count() % 1000) * 1000000};
            // Asking stdout for nothing still reports that the reader of a pipe has gone.
            pollfd descriptors[2] = {{STDOUT_FILENO, 0, 0}, {socket, events, 0}};
            const int ready = ppoll(descriptors, 2, &time, &while_waiting_);
            if (ready < 0 && errno != EINTR)
                throw std::runtime_error(std::string("ppoll: ") + std::strerror(errno));
            if (ready == 0)
                return false;
            if (ready > 0) {
                if (descriptors[0].revents & (POLLERR | POLLHUP))
                    throw Stopped{};
                if (descriptors[1].revents != 0)
                    return true;
            }
        }
    }

    // Waits until stdout takes at least PIPE_BUF bytes more.
    void wait_for_room() const
    {
        pollfd output{STDOUT_FILENO, POLLOUT, 0};
        do {
            if (stop_requested)
                throw Stopped{};
            if (ppoll(&output, 1, nullptr, &while_waiting_) < 0 && errno != EINTR)
                throw std::runtime_error(std::string("ppoll: ") + std::strerror(errno));
        } while (output.revents == 0);
    }

private:
    sigset_t while_waiting_;
};

// ---------------------------------------------------------------------------------------------------------------
// The database
// ---------------------------------------------------------------------------------------------------------------

class Result {
public:
    explicit Result(PGresult *result) : result_(result) {}
    int rows() const { return PQntuples(result_.get()); }
    bool null(int row, int column) const { return PQgetisnull(result_.get(), row, column) != 0; }
    const char *text(int row, int column) const { return PQgetvalue(result_.get(), row, column); }
    std::int64_t number(int row, int column) const { return std::strtoll(text(row, column), nullptr, 10); }
    PGresult *get() const { return result_.get(); }

private:
    struct Clear {
        void operator()(PGresult *result) const { PQclear(result); }
    };
    std::unique_ptr<PGresult, Clear> result_;
};

// Connection parameters as libpq takes them, the way psql orders them: -h, -p, -U win over a connection string.
struct Target {
    std::string database, host, port, user;
};

class Connection {
public:
    Connection(const Target &target, const Waiter &waiter) : waiter_(waiter)
    {
        std::vector<const char *> names, values;
        const auto add = [&](const char *name, const std::string &value) {
            if (value.empty())
                return;
            names.push_back(name);
            values.push_back(value.c_str());
        };
        add("dbname", target.database);
        add("host", target.host);
        add("port", target.port);
        add("user", target.user);
        const std::string utf8 = "UTF8", application = "presence_tail";
        add("client_encoding", utf8);
        add("fallback_application_name", application);
        names.push_back(nullptr);
        values.push_back(nullptr);

        connection_.reset(PQconnectStartParams(names.data(), values.data(), 1));
        if (!connection_)
            throw std::bad_alloc();
        if (PQstatus(get()) == CONNECTION_BAD)
            throw lost();
        auto next = PGRES_POLLING_WRITING;
        while (next != PGRES_POLLING_OK) {
            if (next == PGRES_POLLING_FAILED)
                throw lost();
            await(next == PGRES_POLLING_READING ? POLLIN : POLLOUT);
            next = PQconnectPoll(get());
        }
        PQsetNoticeProcessor(
            get(), [](void *, const char *) {}, nullptr);
    }

    Result query(const std::string &sql, const std::vector<std::string> &parameters = {})
    {
        std::vector<const char *> values;
        values.reserve(parameters.size());
        for (const auto &parameter : parameters)
            values.push_back(parameter.c_str());
        if (!PQsendQueryParams(get(), sql.c_str(), static_cast<int>(values.size()), nullptr, values.data(), nullptr,
                               nullptr, 0))
            throw lost();
        Result last(nullptr);
        for (;;) {
            while (PQisBusy(get())) {
                await(POLLIN);
                if (!PQconsumeInput(get()))
                    throw lost();
            }
            Result result(PQgetResult(get()));
            if (!result.get())
                break;
            last = std::move(result);
        }
        const auto status = PQresultStatus(last.get());
        if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
            return last;
        const char *state = PQresultErrorField(last.get(), PG_DIAG_SQLSTATE);
        const std::string sqlstate = state ? state : "";
        // No state at all: the connection broke. 57P..: the server shuts down. 08...: connection exceptions.
        if (PQstatus(get()) == CONNECTION_BAD || sqlstate.empty() || sqlstate.starts_with("57P") ||
            sqlstate.starts_with("08"))
            throw lost();
        const char *message = PQresultErrorField(last.get(), PG_DIAG_MESSAGE_PRIMARY);
        const char *hint = PQresultErrorField(last.get(), PG_DIAG_MESSAGE_HINT);
        throw QueryFailed(
            std::string(message ? message : "unknown error") + (hint ? std::string(" (") + hint + ")" : ""), sqlstate);
    }

    std::string identifier(const std::string &name)
    {
        struct Free {
            void operator()(char *text) const { PQfreemem(text); }
        };
        const std::unique_ptr<char, Free> quoted(PQescapeIdentifier(get(), name.c_str(), name.size()));
        if (!quoted)
            throw std::runtime_error("\"" + name + "\" is not a usable name");
        return quoted.get();
    }

    // Waits for a notification; false when none came in time. Several that have arrived together count as one.
    bool notified(milliseconds timeout)
    {
        if (!drain() && waiter_.wait(PQsocket(get()), POLLIN, timeout)) {
            if (!PQconsumeInput(get()))
                throw lost();
            return drain();
        }
        return false;
    }

private:
    PGconn *get() const { return connection_.get(); }

    ConnectionLost lost() const { return ConnectionLost(trimmed(PQerrorMessage(get()))); }

    void await(short events) const
    {
        if (!waiter_.wait(PQsocket(get()), events, answer_timeout))
            throw ConnectionLost("the server does not answer");
    }

    bool drain()
    {
        bool any = false;
        while (PGnotify *notification = PQnotifies(get())) {
            PQfreemem(notification);
            any = true;
        }
        return any;
    }

    struct Finish {
        void operator()(PGconn *connection) const { PQfinish(connection); }
    };
    std::unique_ptr<PGconn, Finish> connection_;
    const Waiter &waiter_;
};

// ---------------------------------------------------------------------------------------------------------------
// The screen
// ---------------------------------------------------------------------------------------------------------------

class Screen {
public:
    explicit Screen(const Waiter &waiter)
        : waiter_(waiter), terminal_(isatty(STDOUT_FILENO) != 0), colour_(terminal_ && !std::getenv("NO_COLOR"))
    {
    }

    bool terminal() const { return terminal_; }

    // Each line leaves at once: whoever reads us wants it now.
    void line(std::string_view text) { write(std::string(text) + '\n'); }

    // Rewrites one line in place.
    void live(const std::string &text)
    {
        live_ = true;
        write("\r\033[K" + text);
    }

    // Rewrites the whole screen.
    void page(const std::string &text) { write("\033[H\033[2J" + text); }

    ~Screen()
    {
        if (live_)
            std::fputc('\n', stdout);
    }
    Screen(const Screen &) = delete;
    Screen &operator=(const Screen &) = delete;

    std::string coloured(const char *code, const std::string &text) const
    {
        return colour_ ? std::string("\033[") + code + "m" + text + "\033[0m" : text;
    }

private:
    // In parts that never block, because signals are blocked meanwhile: whoever reads us may have stopped to do so.
    void write(std::string_view text) const
    {
        while (!text.empty()) {
            waiter_.wait_for_room();
            const ssize_t written = ::write(STDOUT_FILENO, text.data(), std::min<std::size_t>(text.size(), PIPE_BUF));
            if (written >= 0)
                text.remove_prefix(static_cast<std::size_t>(written));
            else if (errno == EPIPE)
                throw Stopped{};
            else if (errno != EAGAIN && errno != EINTR)
                throw std::runtime_error(std::string("cannot write: ") + std::strerror(errno));
        }
    }

    const Waiter &waiter_;
    bool terminal_;
    bool colour_;
    bool live_ = false;
};

// Pads to a width counted in characters, not bytes.
inline std::string padded(std::string text, std::size_t width)
{
    const auto characters = static_cast<std::size_t>(std::count_if(
        text.begin(), text.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }));
    if (characters < width)
        text.append(width - characters, ' ');
    return text;
}

inline std::string counted(std::int64_t number, const char *thing)
{
    return std::to_string(number) + " " + thing + (number == 1 ? "" : "s");
}

}  // namespace presence::tools
