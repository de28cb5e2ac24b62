// The miner node under pm2: what follows `--` on its command line is the command that is run.
//
//   pm2 start --name condense_miner -- python -m neurons.miner --netuid 52 --miner.tier research ...
//
// pm2 reads this file because nothing stands before `--`. Without a command it runs the node with no
// flags, which then says what is missing.

const dashes = process.argv.indexOf('--');
const [own, words] =
  dashes < 0 ? [process.argv, []] : [process.argv.slice(0, dashes), process.argv.slice(dashes + 1)];
const named = own.findIndex((word) => word === '--name' || word === '-n');
const [script, ...args] = words.length > 0 ? words : ['python', '-m', 'neurons.miner'];

module.exports = {
  apps: [
    {
      name: (named >= 0 && own[named + 1]) || 'condense_miner',
      script,
      args,
      cwd: __dirname,
      interpreter: 'none',
      // Its backend may come up later than the node: try again, ever more slowly.
      exp_backoff_restart_delay: 1000,
      // Longer than the node takes to answer what is in hand.
      kill_timeout: 40000,
    },
  ],
};
