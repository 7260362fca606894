#!/usr/bin/env escript
%% The oracle of otp_cases.py: what OTP's supervisor does with a case.
%%
%% Reads one term a line: {Flags, Specs, Operations}. Flags are those of supervisor:init/1, a
%% specification is {Id, Restart, Significant, Outcomes}: how the child's starts go, one after the
%% other (ok, ignore, error), and ok from then on. For each operation a line is written:
%% its result, the children, and what has been started and stopped meanwhile.
-mode(compile).
-export([init/1, start_child/3, run_child/4]).

main(_) ->
    logger:set_primary_config(level, none),
    ets:new(log, [named_table, public, ordered_set]),
    ets:new(outcomes, [named_table, public]),
    process_flag(trap_exit, true),
    cases().

cases() ->
    case io:read('') of
        {ok, {Flags, Specs, Operations}} ->
            ets:delete_all_objects(log),
            ets:delete_all_objects(outcomes),
            run_case(Flags, Specs, Operations),
            io:format("end~n"),
            cases();
        eof ->
            ok
    end.

run_case(Flags, Specs, Operations) ->
    case supervisor:start_link(?MODULE, {Flags, [spec(S) || S <- Specs]}) of
        {ok, Sup} ->
            tell(started, Sup),
            operate(Sup, Operations);
        {error, {shutdown, {failed_to_start_child, Id, _}}} ->
            %% Its 'EXIT' is left in the mailbox, where nothing matches it: from OTP 26 on there is none.
            io:format("failed ~s |~s~n", [Id, log()])
    end.

operate(Sup, []) ->
    Monitor = monitor(process, Sup),
    exit(Sup, shutdown),
    await_down(Monitor, Sup, stopped);
operate(Sup, [Operation | Others]) ->
    Monitor = monitor(process, Sup),
    Result = try operation(Sup, Operation) catch _:Why -> {'EXIT', Why} end,
    case settled(Sup, Operation, Monitor) of
        true ->
            demonitor(Monitor, [flush]),
            tell(result(Result), Sup),
            operate(Sup, Others);
        false ->
            %% A call that the supervisor's end has cut off has no result.
            await_down(Monitor, Sup, down)
    end.

operation(Sup, {start_child, Spec}) ->
    supervisor:start_child(Sup, spec(Spec));
operation(Sup, {exit, Id, Reason}) ->
    case pid(Sup, Id) of
        undefined ->
            not_running;
        Pid ->
            Monitor = monitor(process, Pid),
            case Reason of
                killed -> exit(Pid, kill);
                _ -> Pid ! {leave, Reason}
            end,
            receive {'DOWN', Monitor, process, Pid, _} -> {left, Pid} end
    end;
operation(Sup, {Operation, Id}) ->
    supervisor:Operation(Sup, Id).

%% Wait until the supervisor has dealt with everything; false when it has ended.
settled(Sup, Operation, Monitor) ->
    receive
        {'DOWN', Monitor, process, Sup, Reason} ->
            self() ! {'DOWN', Monitor, process, Sup, Reason},
            false
    after 0 ->
        try supervisor:which_children(Sup) of
            Children ->
                Pending = [C || {_, Pid, _, _} = C <- Children, pending(Pid)],
                case Pending of
                    [] -> true;
                    _ -> settled(Sup, Operation, Monitor)
                end
        catch
            _:_ -> false
        end
    end.

pending(restarting) -> true;
pending(undefined) -> false;
pending(Pid) -> not is_process_alive(Pid).

await_down(Monitor, Sup, Word) ->
    receive {'DOWN', Monitor, process, Sup, Reason} -> ok end,
    receive {'EXIT', Sup, _} -> ok end,
    io:format("~s ~p |~s~n", [Word, Reason, log()]).

tell(Word, Sup) ->
    Children = lists:sort([{Id, state(Pid)} || {Id, Pid, _, _} <- supervisor:which_children(Sup)]),
    Rows = [io_lib:format(" ~s=~s", [Id, State]) || {Id, State} <- Children],
    io:format("~s |~s |~s~n", [Word, Rows, log()]).

state(Pid) when is_pid(Pid) -> running;
state(Other) -> Other.

result({ok, undefined}) -> ignored;
result({ok, Pid}) when is_pid(Pid) -> started;
result({left, _}) -> left;
result({error, {already_started, _}}) -> already_started;
result({error, refused}) -> failed;
result({error, Reason}) when is_atom(Reason) -> Reason;
result({error, _}) -> failed;
result(Other) -> Other.

pid(Sup, Id) ->
    case lists:keyfind(Id, 1, supervisor:which_children(Sup)) of
        {_, Pid, _, _} when is_pid(Pid) -> Pid;
        _ -> undefined
    end.

spec({Id, Restart, Significant, Outcomes}) ->
    #{id => Id, start => {?MODULE, start_child, [Id, Outcomes, self()]},
      restart => Restart, significant => Significant}.

init({Flags, Specs}) -> {ok, {Flags, Specs}}.

%% -- a child -----------------------------------------------------------------------------------

start_child(Id, Outcomes, _) ->
    Number = ets:update_counter(outcomes, Id, 1, {Id, 0}),
    Outcome = case Number =< length(Outcomes) of
        true -> lists:nth(Number, Outcomes);
        false -> ok
    end,
    proc_lib:start_link(?MODULE, run_child, [Id, Outcome, self(), Number]).

run_child(Id, Outcome, Parent, _) ->
    process_flag(trap_exit, true),
    note("~s ~s", [Outcome, Id]),
    case Outcome of
        ok ->
            proc_lib:init_ack(Parent, {ok, self()}),
            receive
                {leave, Reason} ->
                    note("leave ~s", [Id]),
                    exit(Reason);
                {'EXIT', Parent, Reason} ->
                    note("stop ~s ~p", [Id, Reason]),
                    exit(Reason)
            end;
        ignore ->
            proc_lib:init_ack(Parent, ignore);
        error ->
            unlink(Parent),
            proc_lib:init_ack(Parent, {error, refused}),
            exit(refused)
    end.

note(Format, Arguments) ->
    Text = io_lib:format(Format, Arguments),
    ets:insert(log, {erlang:unique_integer([monotonic]), Text}).

log() ->
    Lines = [[" ", Text, ";"] || {_, Text} <- ets:tab2list(log)],
    ets:delete_all_objects(log),
    Lines.
