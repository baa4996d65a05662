// presence_tail: prints who is online, then every change as it comes.
//
// Notifications only say "look now", whether they tell of one change or of a storm: what is printed comes from the numbered
// feed, presence_changes_since(), read after the last number printed. So a lost connection, a restarted server or a dropped
// notification leaves neither a gap nor a repeat. The feed is also read every few seconds, in case no notification comes at
// all. A feed of another epoch has other numbers, so there it begins with the list again.

#include <getopt.h>

#include <map>

#include "client.h"
#include "top.h"

#ifndef PRESENCE_VERSION
#define PRESENCE_VERSION "1.0.0"
#endif

namespace {

using namespace presence::tools;

constexpr milliseconds poll_interval{2000};  // the net under lost notifications
constexpr milliseconds top_interval{1000};
constexpr int batch = 1000;  // rows of the feed per query

// ---------------------------------------------------------------------------------------------------------------
// The tail itself
// ---------------------------------------------------------------------------------------------------------------

struct Options {
    Target target;
    std::string schema, channel;
    bool channel_given = false;
    bool json = false;
    bool count = false;
    bool top = false;
    std::optional<std::int64_t> since;
};

class Tail {
public:
    explicit Tail(Options options) : options_(std::move(options)), position_(options_.since) {}

    [[noreturn]] void run()
    {
        auto pause = first_pause;
        for (bool first = true;; first = false) {
            try {
                session(first);
            } catch (const ConnectionLost &error) {
                if (!established_)
                    throw;
                if (connected_)
                    pause = first_pause;
                if (connected_ || pause == first_pause)
                    complain(first_line(error.what()) + "; connecting again");
            } catch (const QueryFailed &error) {
                if (!established_)
                    throw;
                if (connected_)
                    pause = first_pause;
                complain(std::string(error.what()) + "; trying again");
            }
            connected_ = false;
            waiter_.wait(-1, 0, pause);
            pause = std::min(pause * 2, longest_pause);
        }
    }

private:
    // One connection, from its beginning until an exception ends it.
    [[noreturn]] void session(bool first)
    {
        Connection connection(options_.target, waiter_);
        find_schema(connection);
        if (!options_.top)
            listen(connection);
        // Only now: whatever commits from here on is announced to us or found by the first look.
        if (options_.count || options_.top) {
            shown_.reset();
        } else if (position_) {
            check_position(connection);
        } else {
            show_list(connection);
        }
        if (!first)
            complain(position_ ? "connected again, going on after " + std::to_string(*position_) : "connected again");
        established_ = connected_ = true;
        for (;;) {
            if (options_.top)
                show_top(connection);
            else if (options_.count)
                show_count(connection);
            else
                show_changes(connection);
            connection.notified(options_.top ? top_interval : poll_interval);
        }
    }

    void find_schema(Connection &connection)
    {
        std::string schema = options_.schema;
        if (schema.empty()) {
            const auto found = connection.query(
                "SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace "
                "WHERE e.extname = 'presence'");
            if (found.rows() == 0)
                throw QueryFailed("this database has no extension \"presence\" (CREATE EXTENSION presence)", "42704");
            schema = found.text(0, 0);
        }
        schema_ = connection.identifier(schema) + ".";
    }

    void listen(Connection &connection)
    {
        std::string channel = options_.channel;
        if (!options_.channel_given) {
            // The call makes sure that the library, and so its setting, is there.
            connection.query("SELECT " + schema_ + "presence_count()");
            const auto setting = connection.query("SELECT pg_catalog.current_setting('presence.notify_channel', true)");
            channel = setting.null(0, 0) ? "presence" : setting.text(0, 0);
        }
        if (!channel.empty())
            connection.query("LISTEN " + connection.identifier(channel));
        else if (!established_)
            complain("the server sends no notifications (presence.notify_channel is empty): looking every 2 s");
    }

    // A server restored from a backup, or an extension made anew, gives numbers again.
    void check_position(Connection &connection)
    {
        const auto now = connection.query("SELECT epoch, seq FROM " + schema_ + "presence_feed_position()");
        if (!is_known_epoch(now, 0))
            return start_again(connection, "this is not the feed that it was");
        note_epoch(now, 0);
        if (*position_ > now.number(0, 1))
            start_again(connection, "the feed ends at " + std::to_string(now.number(0, 1)) + ", before " +
                                        std::to_string(*position_));
    }

    // No epoch is none that could be another one.
    bool is_known_epoch(const Result &rows, int column) const
    {
        return rows.null(0, column) || epoch_.empty() || epoch_ == rows.text(0, column);
    }

    void note_epoch(const Result &rows, int column)
    {
        if (rows.rows() > 0 && !rows.null(0, column))
            epoch_ = rows.text(0, column);
    }

    void start_again(Connection &connection, const std::string &reason)
    {
        complain(reason + "; starting again from the current list");
        show_list(connection);
    }

    void show_list(Connection &connection)
    {
        const auto rows = connection.query(
            "SELECT s.seq, s.user_id, s.status, s.sessions, pg_catalog.to_char(s.online_since, 'YYYY-MM-DD HH24:MI:SS'), "
            "pg_catalog.row_to_json(s), s.epoch FROM " +
            schema_ + "presence_snapshot() AS s");
        note_epoch(rows, 6);
        const bool nobody = rows.rows() == 0 || rows.null(0, 1);
        if (options_.json) {
            for (int row = 0; row < rows.rows(); ++row)
                screen_.line(rows.text(row, 5));
        } else {
            screen_.line((nobody ? std::string("nobody is online") : counted(rows.rows(), "user") + " online") +
                         ", feed position " + (rows.rows() > 0 && !rows.null(0, 0) ? rows.text(0, 0) : "0"));
            for (int row = 0; !nobody && row < rows.rows(); ++row)
                screen_.line("  " + padded(rows.text(row, 1), 16) + "  " + padded(rows.text(row, 2), 6) + "  since " +
                             rows.text(row, 4) + "  " + counted(rows.number(row, 3), "session"));
        }
        position_ = rows.rows() > 0 && !rows.null(0, 0) ? rows.number(0, 0) : 0;
    }

    void show_changes(Connection &connection)
    {
        for (;;) {
            std::optional<Result> found;
            try {
                found = connection.query(
                    "SELECT e.seq, pg_catalog.to_char(e.at, 'HH24:MI:SS.MS'), e.event, e.user_id, e.session_id, e.reason, e.sessions, "
                    "e.details, pg_catalog.row_to_json(e), p.epoch, e.room FROM " +
                        schema_ + "presence_feed_position() AS p LEFT JOIN LATERAL " + schema_ +
                        "presence_changes_since($1::bigint, $2::integer) AS e ON true",
                    {std::to_string(*position_), std::to_string(batch)});
            } catch (const QueryFailed &error) {
                if (error.sqlstate != "22023")
                    throw;
                start_again(connection, error.what());
                continue;
            }
            if (!is_known_epoch(*found, 9)) {
                start_again(connection, "this is not the feed that it was");
                continue;
            }
            note_epoch(*found, 9);
            // One row without a number: nothing new.
            for (int row = 0; row < found->rows() && !found->null(row, 0); ++row) {
                screen_.line(options_.json ? std::string(found->text(row, 8)) : readable(*found, row));
                position_ = found->number(row, 0);
            }
            if (found->rows() < batch)
                return;
        }
    }

    std::string readable(const Result &rows, int row) const
    {
        const std::string event = rows.text(row, 2), user = rows.text(row, 3), reason = rows.text(row, 5);
        const std::string session = rows.null(row, 4) ? "unnamed session" : std::string("session ") + rows.text(row, 4);
        const std::string left = rows.null(row, 6) ? "" : ", has " + counted(rows.number(row, 6), "session");
        std::string what, colour = "0";
        if (event == "user_online") {
            what = "+ " + padded(user, 16) + " online";
            colour = "32";
        } else if (event == "user_offline") {
            what = "- " + padded(user, 16) + " offline: " + reason;
            colour = "31";
        } else if (event == "session_start") {
            what = "  " + padded(user, 16) + " " + session + " begins" + left;
            colour = "2";
        } else if (event == "session_end") {
            what = "  " + padded(user, 16) + " " + session + " ends: " + reason + left;
            colour = "2";
        } else if (!rows.null(row, 10)) {
            what = "  " + padded(user, 16) + " " + event + " " + rows.text(row, 10) +
                   (rows.null(row, 7) ? ": " + reason : std::string(" ") + rows.text(row, 7));
            colour = "36";
        } else {
            what = "~ " + padded(user, 16) + " " + event + " " + rows.text(row, 7);
            colour = "33";
        }
        std::string number = rows.text(row, 0);
        if (number.size() < 6)
            number.insert(0, 6 - number.size(), ' ');
        return number + "  " + rows.text(row, 1) + "  " + screen_.coloured(colour.c_str(), what);
    }

    void show_count(Connection &connection)
    {
        const auto rows = connection.query(
            "SELECT c, pg_catalog.to_char(pg_catalog.clock_timestamp(), 'HH24:MI:SS'), pg_catalog.json_build_object('at', "
            "pg_catalog.clock_timestamp(), 'online', c) FROM " +
            schema_ + "presence_count() AS c");
        const std::int64_t online = rows.number(0, 0);
        if (shown_ == online)
            return;
        shown_ = online;
        if (options_.json)
            screen_.line(rows.text(0, 2));
        else if (screen_.terminal())
            screen_.live(counted(online, "user") + " online");
        else
            screen_.line(std::string(rows.text(0, 1)) + "  " + counted(online, "user") + " online");
    }

    void show_top(Connection &connection)
    {
        const bool screen = screen_.terminal() && !options_.json;
        const std::string text = top_.look(connection, schema_, options_.json, screen);
        if (screen)
            screen_.page(text);
        else
            screen_.line(text);
    }

    Options options_;
    Top top_;
    Waiter waiter_;
    Screen screen_{waiter_};
    std::string schema_;                    // quoted, with its dot
    std::string epoch_;                     // of these numbers; empty: not known
    std::optional<std::int64_t> position_;  // the last number that is on the screen
    std::optional<std::int64_t> shown_;     // the count that is on the screen
    bool established_ = false;              // it has worked once: from then on we do not give up
    bool connected_ = false;
};

// ---------------------------------------------------------------------------------------------------------------
// Command line
// ---------------------------------------------------------------------------------------------------------------

constexpr const char *help_text =
    "presence_tail prints who is online, then every change as it comes.\n"
    "\n"
    "Usage: presence_tail [OPTION]... [DBNAME|CONNINFO|URI]\n"
    "\n"
    "  -j, --json            one JSON object a line\n"
    "  -s, --since=SEQ       no list: the changes after this feed position, then those to come\n"
    "  -c, --count           only how many users are online: one live line, or a line per change\n"
    "                        when the output is not a terminal\n"
    "  -t, --top             rates of heartbeats and changes, and what is wrong: a screen that renews itself, or a\n"
    "                        line a second when the output is not a terminal\n"
    "      --channel=NAME    channel to listen on (default: the server's presence.notify_channel)\n"
    "      --schema=NAME     schema of the extension (default: found by itself)\n"
    "  -h, --host=HOST       server's host or socket directory\n"
    "  -p, --port=PORT       server's port\n"
    "  -U, --username=NAME   database user\n"
    "  -d, --dbname=NAME     database, connection string or URI\n"
    "  -V, --version         print the version\n"
    "  -?, --help            print this\n"
    "\n"
    "What is not given comes from the environment, as with psql. When the server restarts it connects again and\n"
    "goes on where it was. It ends with Ctrl-C.\n";

[[noreturn]] void usage_error(const std::string &text)
{
    complain(text);
    std::fputs("Try \"presence_tail --help\".\n", stderr);
    std::exit(2);
}

Options parse(int argc, char **argv)
{
    enum { channel_option = 256, schema_option };
    static const option long_options[] = {{"json", no_argument, nullptr, 'j'},
                                          {"since", required_argument, nullptr, 's'},
                                          {"count", no_argument, nullptr, 'c'},
                                          {"top", no_argument, nullptr, 't'},
                                          {"channel", required_argument, nullptr, channel_option},
                                          {"schema", required_argument, nullptr, schema_option},
                                          {"host", required_argument, nullptr, 'h'},
                                          {"port", required_argument, nullptr, 'p'},
                                          {"username", required_argument, nullptr, 'U'},
                                          {"dbname", required_argument, nullptr, 'd'},
                                          {"version", no_argument, nullptr, 'V'},
                                          {"help", no_argument, nullptr, '?'},
                                          {nullptr, 0, nullptr, 0}};
    Options options;
    const std::map<int, std::string *> texts{{schema_option, &options.schema},
                                             {'h', &options.target.host},
                                             {'p', &options.target.port},
                                             {'U', &options.target.user},
                                             {'d', &options.target.database}};
    opterr = 0;
    for (;;) {
        optopt = 0;
        const int current = optind;
        const int chosen = getopt_long(argc, argv, ":js:cth:p:U:d:V?", long_options, nullptr);
        if (chosen == -1)
            break;
        if (const auto text = texts.find(chosen); text != texts.end()) {
            *text->second = optarg;
            continue;
        }
        switch (chosen) {
        case 'j':
            options.json = true;
            break;
        case 'c':
            options.count = true;
            break;
        case 't':
            options.top = true;
            break;
        case 's': {
            char *end = nullptr;
            errno = 0;
            const std::int64_t value = std::strtoll(optarg, &end, 10);
            if (errno != 0 || end == optarg || *end != '\0' || value < 0)
                usage_error(std::string("--since takes a feed position, not \"") + optarg + "\"");
            options.since = value;
            break;
        }
        case channel_option:
            options.channel = optarg;
            options.channel_given = true;
            break;
        case 'V':
            std::puts("presence_tail " PRESENCE_VERSION);
            std::exit(0);
        case ':':
            usage_error(std::string(argv[optind - 1]) + " needs a value");
        default:
            // getopt says '?' both for our -? and for what it does not know; the latter it leaves in optopt.
            if (std::string_view(argv[current]) == "-?" || std::string_view(argv[current]) == "--help") {
                std::fputs(help_text, stdout);
                std::exit(0);
            }
            usage_error(std::string("unknown option \"") + argv[current] + "\"");
        }
    }
    if (optind < argc) {
        if (!options.target.database.empty())
            usage_error("the database is given twice");
        options.target.database = argv[optind++];
    }
    if (optind < argc)
        usage_error(std::string("\"") + argv[optind] + "\" is one argument too many");
    if (options.count + options.top + options.since.has_value() > 1)
        usage_error("--count, --top and --since exclude each other");
    return options;
}

}  // namespace

int main(int argc, char **argv)
{
    try {
        Tail(parse(argc, argv)).run();
    } catch (const Stopped &) {
        return 0;
    } catch (const std::exception &error) {
        complain(error.what());
        return 1;
    }
}
