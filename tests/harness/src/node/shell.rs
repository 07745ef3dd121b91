//! An Erlang shell on a node: a process that stays, where every call of `rabbitmqctl` starts a virtual machine of its own,
//! which costs a second of CPU time and several seconds on a busy machine.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Node, POLL, files};
use crate::leash::Leashed;
use crate::names::unique;

/// Time limit for the start of the shell and for each expression. Both can be slow on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);
const OK: u8 = 0;

/// A connection to the shell. It speaks with blocking calls, because it outlives the runtime of a test.
#[derive(Debug)]
pub(super) struct Shell {
    connection: TcpStream,
    _process: Leashed,
}

impl Shell {
    /// The command of a node's shell, without the port that the shell connects to.
    pub(super) fn command(node: &Node) -> Command {
        let mut command = node.distribution.installation.program("erl".as_ref());
        command.envs(files::environment(&node.distribution.installation.inside(node.folder())));
        command.env("ERL_EPMD_PORT", node.distribution.port.to_string());
        command.args(["+S", "1:1", "-noinput", "-hidden", "-start_epmd", "false", "-sname"]);
        command.arg(format!("{}@localhost", unique("shell")));
        command.args(["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]);
        command
    }

    /// Starts `command` for the node of this name.
    pub(super) fn start(mut command: Command, node: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        command.arg("-eval").arg(serve(node, listener.local_addr()?.port()));
        let mut process = Leashed::spawn(&command, Stdio::null(), Stdio::null())?;
        let deadline = Instant::now() + WITHIN;
        let connection = loop {
            match listener.accept() {
                Ok((connection, _)) => break connection,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if Instant::now() > deadline => return Err(io::Error::other("the Erlang shell does not start")),
                Err(_) => {}
            }
            if let Some(status) = process.try_wait()? {
                return Err(io::Error::other(format!("the Erlang shell ended with {status}")));
            }
            thread::sleep(POLL);
        };
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(WITHIN + POLL))?;
        Ok(Self { connection, _process: process })
    }

    /// Evaluates an expression. The outer error is that of the shell, which cannot be used any more.
    pub(super) fn eval(&mut self, expression: &str) -> io::Result<Result<String, String>> {
        let length = u32::try_from(expression.len()).map_err(io::Error::other)?;
        self.connection.write_all(&length.to_be_bytes())?;
        self.connection.write_all(expression.as_bytes())?;
        let mut length = [0; 4];
        self.connection.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.connection.read_exact(&mut answer)?;
        let (status, value) = answer.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        let value = String::from_utf8_lossy(value).trim().to_owned();
        Ok(if *status == OK { Ok(value) } else { Err(value) })
    }
}

/// The expression that reads others from the port, evaluates each in the node, and writes back its value or its error.
fn serve(node: &str, port: u16) -> String {
    let limit = WITHIN.as_millis();
    format!(
        r#"{{ok, Socket}} = gen_tcp:connect({{127,0,0,1}}, {port}, [binary, {{packet, 4}}, {{active, false}}]),
        Eval = fun(Text) ->
            {{ok, Tokens, _}} = erl_scan:string(unicode:characters_to_list(Text)),
            {{ok, Expressions}} = erl_parse:parse_exprs(Tokens),
            case rpc:call('{node}', erl_eval, exprs, [Expressions, []], {limit}) of
                {{value, Value, _}} -> {{{OK}, Value}};
                Error -> {{1, Error}}
            end
        end,
        Serve = fun Serve() ->
            case gen_tcp:recv(Socket, 0) of
                {{ok, Text}} ->
                    {{Status, Answer}} = try Eval(Text) catch _:Error -> {{1, Error}} end,
                    Printed = unicode:characters_to_binary(io_lib:format("~p", [Answer])),
                    ok = gen_tcp:send(Socket, [Status, Printed]),
                    Serve();
                _ -> halt(0)
            end
        end,
        Serve()."#
    )
}
