"""Several processes as one run: how they meet, and that they agree.

jax.distributed aborts a process (exit code 134 and a stack trace) whose peers do not come. So they
meet over a plain socket first, on the port that jax.distributed takes after it: whoever is missing
is named in one line.
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from t5lite import errors

PATIENCE = 300.0  # seconds until a process that does not come is an error
GRACE = 3.0  # seconds that process 0 stays when all leave: those that are left then abort
LOCAL = ('localhost', '127.0.0.1')
GO = 'go'
# What jax says where a connection to another process, or that process, ended.
LOST = re.compile('Gloo|UNAVAILABLE|Connection (reset|closed)|heartbeat')


def join(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
  """Makes this process one of several; returns when all of them are there.

  Args:
    coordinator: HOST:PORT of process 0; 'auto': jax asks the cluster (TPU pod, Slurm, Kubernetes,
      Open MPI), for the other two as well.
    num_processes: how many there are.
    process_id: which of them this is, from 0.

  Raises:
    ConfigError: the flags do not fit together.
    PeerError: the port is taken, or a process did not come.
  """
  if coordinator == 'auto':
    _join_cluster(num_processes, process_id)
  else:
    _join_at(coordinator, num_processes, process_id)
  if jax.default_backend() == 'cpu':
    silence_stdout_of_libraries()


def _join_at(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
  if num_processes is None or process_id is None:
    names = '--num_processes and --process_id'
    raise errors.ConfigError('missing flag', names, f'give both with --coordinator={coordinator}')
  host, port = _address(coordinator)
  where = f'--process_id={process_id} of --num_processes={num_processes}'
  errors.check(process_id < num_processes, 'no such process', where, 'count them from 0')
  if process_id == 0:
    _gather('' if host not in LOCAL else host, port, num_processes)
  else:
    _report(host, port, num_processes, process_id)
  # By default it listens on all interfaces, where strangers may come and a firewall may ask.
  bind = coordinator if host in LOCAL else None
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    coordinator_bind_address=bind,
    cluster_detection_method='deactivate',
  )


def _join_cluster(num_processes: int | None, process_id: int | None) -> None:
  given = f'--num_processes={num_processes} --process_id={process_id}'
  remedy = 'leave them out, or give --coordinator=HOST:PORT'
  alone = num_processes is None and process_id is None
  errors.check(alone, '--coordinator=auto finds these by itself', given, remedy)
  try:
    jax.distributed.initialize()
  except ValueError as error:
    raise errors.ConfigError(
      'no cluster found',
      f'--coordinator=auto ({error})',
      'start it on a TPU pod, by srun or in a Kubernetes job, or give --coordinator=HOST:PORT',
    ) from error


def _address(coordinator: str) -> tuple[str, int]:
  host, _, port = coordinator.rpartition(':')
  good = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
  errors.check(good, 'not an address', f'--coordinator={coordinator}', 'use HOST:PORT or auto')
  return host, int(port)


def _gather(host: str, port: int, num_processes: int) -> None:
  """Waits, as process 0, until all others have said who they are, then lets them go on."""
  deadline = time.monotonic() + PATIENCE
  with contextlib.ExitStack() as stack:
    try:
      server = stack.enter_context(socket.create_server((host, port)))
    except OSError as error:
      where = f'port {port} ({error.strerror})'
      raise errors.PeerError('process 0 cannot listen', where, 'use a free port') from error
    here: dict[int, socket.socket] = {}
    while missing := sorted(set(range(1, num_processes)) - set(here)):
      server.settimeout(max(deadline - time.monotonic(), 1e-3))
      try:
        peer = stack.enter_context(server.accept()[0])
      except TimeoutError as error:
        raise errors.PeerError(
          'processes did not come',
          f'{missing} of {num_processes}, within {PATIENCE:.0f} s',
          f'start one with each --process_id, where this host can be reached on port {port}',
        ) from error
      name = _hear(peer, seconds=5)
      if name in [f'{process} of {num_processes}' for process in missing]:
        here[int(name.split()[0])] = peer
      elif name:
        _say(peer, f'{name} is not one of {missing} of {num_processes}, for which it waits')
    server.close()  # before any of them goes on: the port is jax's now
    for peer in here.values():
      _say(peer, GO)


def _report(host: str, port: int, num_processes: int, process_id: int) -> None:
  """Says who this is to process 0, and waits until all others have come."""
  deadline = time.monotonic() + PATIENCE
  answer = ''
  while answer != GO:
    try:
      server = socket.create_connection((host, port), timeout=5)
    except OSError as error:
      if time.monotonic() < deadline:
        time.sleep(0.2)  # it is not there yet
        continue
      where = f'{host}:{port} ({error.strerror or error})'
      remedy = 'start process 0 on that host, or mend --coordinator'
      raise errors.PeerError('no way to process 0', where, remedy) from error
    with server:
      _say(server, f'{process_id} of {num_processes}')
      answer = _hear(server, seconds=2 * PATIENCE)
    if answer != GO:
      where = f'{host}:{port} ({answer or "it left"})'
      remedy = 'see what process 0 says, and give each process its own --process_id'
      raise errors.PeerError('process 0 does not take this one', where, remedy)


def _say(peer: socket.socket, text: str) -> None:
  with contextlib.suppress(OSError):  # who is gone will be missed later
    peer.sendall(f'{text}\n'.encode())


def _hear(peer: socket.socket, *, seconds: float) -> str:
  """Returns the line that a peer sends; '' if it sends none."""
  peer.settimeout(seconds)
  with contextlib.suppress(OSError), peer.makefile(errors='replace') as lines:
    return lines.readline(200).strip()
  return ''


def silence_stdout_of_libraries() -> None:
  """Leaves the standard output to Python: Gloo, the CPU's collectives, tells it each connection."""
  sys.stdout.flush()
  sys.stdout = os.fdopen(os.dup(1), 'w', buffering=1, encoding=sys.stdout.encoding)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  os.close(nowhere)


def check_same(facts: Mapping[str, Any]) -> None:
  """Raises ConfigError on all processes if a fact (name: value for JSON) is not the same on all."""
  if jax.process_count() == 1:
    return
  errors.check(
    jax.distributed.is_initialized(),
    'one of several processes, which have not met',
    f'{jax.process_count()} processes',
    'give --coordinator=auto on a TPU pod',
  )
  digests = [hashlib.sha256(json.dumps(value, sort_keys=True).encode()) for value in facts.values()]
  rows = np.array([np.frombuffer(digest.digest(), np.uint8) for digest in digests])
  same_NF = np.all(multihost_utils.process_allgather(rows) == rows, axis=-1)
  for name, same_N in zip(facts, same_NF.T, strict=True):
    others = np.flatnonzero(~same_N).tolist()
    # Where this process is the odd one, all others are: both sides see who differs.
    errors.check(
      not others,
      f'the processes have different {name}',
      f'process {jax.process_index()} and {others}',
      'start all of them with the same command, files and versions',
    )


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Raises an error of one process, in the block, on all of them: none waits for one that left.

  Raises:
    PeerError: another process failed; its exit code is that process's.
  """
  problem = None
  try:
    yield
  except errors.UserError as error:
    problem = error
  if jax.process_count() > 1:
    codes_N = multihost_utils.process_allgather(np.int32(problem.code if problem else 0))
    if codes_N.any() and problem is None:
      failed = np.flatnonzero(codes_N)
      where = f'{failed.tolist()} of {jax.process_count()}'
      error = errors.PeerError('a process failed', where, 'see what it says')
      error.code = int(codes_N[failed[0]])
      raise error
  if problem is not None:
    raise problem


@contextlib.contextmanager
def missing_the_lost() -> Iterator[None]:
  """Raises PeerError where what runs in the block broke off because another process is gone."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1 or not LOST.search(str(error)):
      raise
    where = f'process {jax.process_index()} of {jax.process_count()}'
    remedy = 'see what it says; the same command goes on from the last checkpoint'
    raise errors.PeerError('lost another process', where, remedy) from error


def leave(code: int) -> None:
  """Ends a process that failed, if it is one of several, without waiting for the others."""
  if code and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(GRACE if jax.process_index() == 0 else 0)
    os._exit(code)
