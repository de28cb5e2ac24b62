// Every process of one machine under pm2: backend, miner, scoring service, validator and, where
// CONDENSE_GATEWAY_ARGS says how, the gateway. Some of them: --only condense_backend,condense_miner.
//
//   cp deploy/condense.env.example deploy/condense.env    # and edit it
//   set -a; . deploy/condense.env; set +a
//   pm2 start deploy/ecosystem.all.config.js
//
// The root's ecosystem.config.js is the miner alone, for pm2 start --name condense_miner -- COMMAND.

const fs = require('fs');
const path = require('path');

const root = path.resolve(__dirname, '..');
const own = path.join(root, '.venv', 'bin', 'python');
// An active environment wins, then the checkout's own.
const active = process.env.VIRTUAL_ENV && path.join(process.env.VIRTUAL_ENV, 'bin', 'python');
const python = [active, own].find((each) => each && fs.existsSync(each)) || 'python3';

const SCORING = 'services/validator_backend/scoring/app.py';

// Milliseconds a process has to answer what it holds before pm2 kills it: more than each takes.
const DRAIN = { node: 40000, backend: 40000, scoring: 70000 };

const app = (name, start, killTimeout) => {
  const given = (process.env[`CONDENSE_${name.toUpperCase()}_ARGS`] || '').split(/\s+/);
  return {
    name: `condense_${name}`,
    script: python,
    args: [...start, ...given.filter((word) => word !== '')],
    cwd: root,
    interpreter: 'none',
    // What a process waits for may come up later than it: try again, ever more slowly.
    exp_backoff_restart_delay: 1000,
    kill_timeout: killTimeout,
  };
};

const condense = (command) => ['-m', 'neural_condense_core.cli', command];

module.exports = {
  apps: [
    app('backend', condense('serve'), DRAIN.backend),
    app('miner', ['-m', 'neurons.miner'], DRAIN.node),
    app('scoring', [SCORING], DRAIN.scoring),
    app('validator', ['-m', 'neurons.validator'], DRAIN.node),
    ...(process.env.CONDENSE_GATEWAY_ARGS ? [app('gateway', condense('gateway'), DRAIN.backend)] : []),
  ],
};
