%% OTP's gen_server between two nodes of this machine, and its supervisor.
%% erl -noshell -pa DIRECTORY -s otp_bench main call|cast|restart N DIRECTORY
-module(otp_bench).
-export([main/1, init/1, handle_call/3, handle_cast/2, start_worker/0, start_remote/0]).

main([Kind, Number, Directory]) ->
    logger:set_primary_config(level, none),
    measure(Kind, list_to_integer(atom_to_list(Number)), atom_to_list(Directory)),
    halt().

measure(restart, Number, _) ->
    {ok, _} = supervisor:start_link(?MODULE, {sup, Number}),
    Times = [restart() || _ <- lists:seq(1, Number)],
    io:format("{\"ms\": ~p, \"worst_ms\": ~p}~n",
              [lists:nth(Number div 2 + 1, lists:sort(Times)) / 1.0e6, lists:max(Times) / 1.0e6]);
measure(Kind, Number, Directory) ->
    Name = list_to_atom("bench" ++ os:getpid() ++ "@localhost"),
    {ok, _} = net_kernel:start([Name, shortnames]),
    {ok, Peer, Node} = peer:start_link(#{name => peer:random_name(), args => ["-pa", Directory]}),
    {ok, Server} = erpc:call(Node, ?MODULE, start_remote, []),
    [gen_server:call(Server, get) || _ <- lists:seq(1, Number div 10)],
    Began = erlang:monotonic_time(nanosecond),
    exchange(Kind, Server, Number),
    Took = erlang:monotonic_time(nanosecond) - Began,
    case Kind of
        call -> io:format("{\"us\": ~p}~n", [Took / Number / 1000]);
        cast -> io:format("{\"per_s\": ~p}~n", [Number / Took * 1.0e9])
    end,
    peer:stop(Peer).

exchange(call, Server, Number) ->
    [gen_server:call(Server, get) || _ <- lists:seq(1, Number)];
exchange(cast, Server, Number) ->
    [gen_server:cast(Server, 1) || _ <- lists:seq(1, Number)],
    Number = gen_server:call(Server, get, infinity).

restart() ->
    Old = gen_server:call(worker, pid),
    Began = erlang:monotonic_time(nanosecond),
    exit(Old, kill),
    again(Old),
    erlang:monotonic_time(nanosecond) - Began.

again(Old) ->
    case catch gen_server:call(worker, pid) of
        New when is_pid(New), New =/= Old -> ok;
        _ -> again(Old)
    end.

start_remote() -> gen_server:start(?MODULE, [], []).
start_worker() -> gen_server:start_link({local, worker}, ?MODULE, [], []).

init({sup, Number}) ->
    {ok, {#{intensity => 10 * Number},
          [#{id => worker, start => {?MODULE, start_worker, []}}]}};
init([]) -> {ok, 0}.
handle_call(pid, _, N) -> {reply, self(), N};
handle_call(get, _, N) -> {reply, N, N}.
handle_cast(K, N) -> {noreply, N + K}.
