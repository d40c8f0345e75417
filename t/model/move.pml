/* SPDX-License-Identifier: Apache-2.0
 * The move of one session between three nodes (0, 1, 2) as docs/architecture.md describes it,
 * for Spin 6.5: a model of the protocol, not of the code. t/model/run checks it.
 *
 * What is in it
 *   entry      the session's entry in the table: ent, state, home, infl (requests in flight),
 *              visited, epoch, token, to
 *   nodes      has[n], copy[n]: the session object in node n; pend[n]: its backup is
 *              outstanding
 *   memcached  kp[n], kv[n]: the key "<base id>.n" is there, and its value
 *   values     bit sets; bit i = the write of request i is in it. acked = writes that a client
 *              was told of (after a crash of the home only those that had once reached
 *              memcached: saved)
 *   takeover   as memcached-session-manager does it: load the old key, delete it, answer, store
 *              the new key later. A node that has a copy uses it and does not look into
 *              memcached: that is the stale copy.
 *   probe      the module's HEAD; a node may work on it long after the sender has given up
 *   quiet      includes !pend[home]: what the flush of the protocol achieves
 *
 * Faults, each -D
 *   TMO     a probe may time out
 *   DIE     the mover's process dies anywhere
 *   SLOW    the mover only looks dead (its lease runs out) and goes on later
 *   LOSE    memcached drops a key once
 *   STOP    the home is stopped or cut off while requests run in it, and goes on later
 *   CRASH   the home's process dies
 *   BACK    after CRASH: it is back, without any copy
 *   RETURN  a former home is taken for restarted, so its copy for gone, though it is not
 *   EVICT   the table forgets the entry once
 *   RESTART httpd is stopped, whatever it was at, and started: all is forgotten, and what nodes
 *           were asked to do is done by then
 *   REBORN  a node restarts: its copy is gone
 *   ZOMBIE  an old home writes its key again (a request of an aborted client still runs there,
 *           or MSM refreshes the expiry time)
 *   GTO     a waiting request reaches the end of its time at the gate
 *   KEEP    a client goes on with the id that it has and learns no new one (a script with a
 *           fixed cookie; a straggler)
 *   EXCUSE  not a fault: leaves the known residue out of the check. B loads the old key, A
 *           stores it anew, B deletes it, A dies: what A stored last is gone, and nobody can
 *           tell. It takes a probe that nobody waits for any more and a home that dies right
 *           then.
 *
 * Rules, each -D; one that is left out is a rule that the module breaks
 *   R_WORD    state and requests in flight change in one atomic word (without: the mover reads
 *             the count, then shuts the gate)
 *   R_SENT    a node is visited from the moment a probe may be sent to it, whatever comes of it
 *   R_TOKEN   a mover sends, commits and aborts only while its own token is valid
 *   R_SAMEID  proof = Set-Cookie with the target's route and the same base id
 *   R_FLIP    and the key that the probe carried is gone (a stale copy does not delete it), and
 *             the target's is there
 *   R_NEWEST  the probe carries the session's newest id (without: the one the client last sent)
 *   R_FENCE   a gate shut on a session that is not quiet (home dead) opens a new epoch; the
 *             answer to a request of an earlier epoch is not passed on as success
 *   R_PROB    an entry made again for a session that already runs gets no voluntary move
 *   R_MARK    owner of an unknown session: the moved marker first, then keys (without: any key)
 *   R_ASK     if there are keys, but not the marked node's, that node is asked (a flush: one that
 *             has the session stores it); one that has no copy is not the owner (without: the
 *             marker is believed)
 *   R_MPRE    that marker names the old home before the probe is sent, and the new one before
 *             the gate opens (without: written once, after the commit)
 *   R_ANYKEY  home dead and its key gone: any key of this base id names the id to probe with
 *   R_LATE    home dead and its key gone: the key counts of a node that was asked since the last
 *             request, else that of the one that was asked last, and no other while that one may
 *             still be taking the session over (without: an old copy's key may be there sooner)
 *   R_TWICE   while a node may still be at an earlier probe of the session there is no voluntary
 *             move, and none that may have an old copy is asked (two that load the session at
 *             once; a key that another one takes away is no proof)
 *   R_503     a request whose time at the gate ends gets 503; it never passes
 *   R_HOLD    home dead, a node asked in vain: nobody passes to it unproved, the rescue is tried
 *             again (without: the gate opens there, and whoever comes takes the session over)
 *   R_FOUND   home dead: a request goes on only by way of the mover (without: it can get to where
 *             httpd's failover sends it)
 *   R_BACK    a lost home that is back does not get the session while another one has it, or may
 *             be taking it over
 *   R_BOTH    both keys or none after a time-out: the old home stays (if it lives)
 */
#define N 3
#ifndef NREQ
#define NREQ 3
#endif
#ifndef NMOVE
#define NMOVE 2
#endif
#define BIT(x) (1 << (x))
#define NONE 7

mtype = { STABLE, MOVING };
mtype = { YES, NEWID };

/* entry */
bit ent = 1;
mtype state = STABLE;
byte home = 0, infl = 0, visited = 0, epoch = 0, token = 0, to = NONE;
bit prob = 0;                   /* made again */
bit held = 0;                   /* home lost in vain, or restarted: nobody passes before one HEAD */
bit loose = 0;                  /* at a home that nobody has proved to have it */
byte cid = 0;                   /* route of the id that the client holds */
byte newest = 0;                /* route of the newest id that the module has learned */
byte marker = NONE;             /* xnat-balance:moved */
byte asks = 0;                  /* times that a node was asked to take it over */
byte asked[N];                  /* which of them was n's last; 0: not since the last commit */
byte fresh = 0;                 /* nodes that were, and no request was let through since */

/* nodes and memcached */
bit has[N], pend[N], stopped[N];
byte copy[N];
bit kp[N];
byte kv[N];
bit ghost[N];                   /* node n made an unrelated anonymous session for a probe */
bit suspect[N];                 /* httpd sees n as dead */
byte sent[N];                   /* probes that n has not done yet */

/* bookkeeping of the check */
byte acked = 0, saved = 0, done = 0;
bit mdead = 0, mend = 0, envdone = 0, recov = 0;
#ifdef EXCUSE
bit excused = 0;
#else
#define excused 0
#endif

chan probe = [2] of { byte, byte, byte };      /* target, route of the id, token */
chan answer = [4] of { mtype, byte };          /* what, token */

#define ANY_KEY (kp[0] || kp[1] || kp[2])

inline store(n) {
    atomic {
        if
        :: has[n] -> kp[n] = 1; kv[n] = copy[n]; saved = saved | copy[n]
        :: else
        fi;
        pend[n] = 0
    }
}

/* Owner of a session that the table does not know, for an id with route r. */
inline owner(h, r) {
#ifdef R_MARK
    if
#ifdef R_ASK
    :: marker != NONE && (kp[marker] || !ANY_KEY) -> h = marker
    :: marker != NONE && !kp[marker] && ANY_KEY && has[marker] && !suspect[marker] ->
        h = marker; kp[h] = 1; kv[h] = copy[h]; saved = saved | copy[h]
    :: marker != NONE && !kp[marker] && ANY_KEY && (!has[marker] || suspect[marker]) ->
        if
        :: kp[0] -> h = 0
        :: !kp[0] && kp[1] -> h = 1
        :: !kp[0] && !kp[1] -> h = 2
        fi
#else
    :: marker != NONE -> h = marker
#endif
    :: marker == NONE ->
        if
        :: kp[r] -> h = r
        :: !kp[r] && kp[0] -> h = 0
        :: !kp[r] && kp[1] -> h = 1
        :: !kp[r] && kp[2] -> h = 2
        :: else -> h = r
        fi
    fi
#else
    if
    :: kp[0] -> h = 0
    :: kp[1] -> h = 1
    :: kp[2] -> h = 2
    :: !ANY_KEY -> h = r
    fi
#endif
}

proctype Req(byte i) {
    byte n, r, ep, h, v;
    bit out = 0, ok = 0;
    atomic {
        r = cid;
        if
        :: !ent ->
            owner(h, r);
            ent = 1; state = STABLE; home = h; newest = h; infl = 1; visited = 0; epoch++;
            prob = 1; loose = 0; n = h; ep = epoch
        :: ent && state == STABLE && !suspect[home] && !held -> infl++; n = home; ep = epoch; fresh = 0
        :: ent && state == STABLE && (suspect[home] || held) && mend -> out = 1 /* 503 */
#ifndef R_FOUND
        :: ent && state == STABLE && suspect[home] ->
            if
            :: home != 0 && !suspect[0] -> n = 0
            :: home != 1 && !suspect[1] -> n = 1
            :: home != 2 && !suspect[2] -> n = 2
            fi;
            visited = visited | BIT(home); home = n; infl++; ep = epoch; fresh = 0; loose = 1
#endif
#ifdef GTO
        :: ent && state == MOVING ->
#ifdef R_503
            out = 1
#else
            infl++; n = home; ep = epoch; fresh = 0
#endif
#endif
        fi
    }
    if :: out -> goto fin :: else fi;
    /* in the node */
    atomic {
        (!stopped[n]) ->
        if
        :: has[n] -> skip
        :: !has[n] && kp[r] && loose -> v = kv[r]; goto load
        :: !has[n] && kp[r] && !loose ->        /* the user's own request takes over */
            has[n] = 1; copy[n] = kv[r];
            if :: r != n -> kp[r] = 0 :: else fi;
            pend[n] = 1
        :: else -> assert(excused); goto rel    /* LOST LOGIN */
        fi;
        ok = 1
#ifndef STOP
        ; assert(excused || (acked & ~copy[n]) == 0)    /* STALE COPY SERVED */
#endif
        ; copy[n] = copy[n] | BIT(i); pend[n] = 1
    }
    goto rel;
load:   /* several may be at it here, and the last one's copy is the one that stays */
    atomic {
        (!stopped[n]) ->
        has[n] = 1; copy[n] = v | BIT(i); pend[n] = 1; ok = 1;
        if :: r != n -> kp[r] = 0 :: else fi
#ifndef STOP
        ; assert(excused || (acked & ~copy[n]) == 0)    /* LOST BY A RACE */
#endif
    }
rel:
    atomic {
        if :: ent && infl > 0 && ep == epoch -> infl-- :: else fi;
        if
#ifdef R_FENCE
        :: ep == epoch && ok ->
#else
        :: ok ->
#endif
            acked = acked | BIT(i);
#ifdef KEEP
            if :: cid = n :: skip fi
#else
            cid = n
#endif
        :: else
        fi
    }
fin:
    atomic { done++ }
}

proctype Backup() {
    byte n;
    do
    :: atomic { pend[0] && !stopped[0] -> store(0) }
    :: atomic { pend[1] && !stopped[1] -> store(1) }
    :: atomic { pend[2] && !stopped[2] -> store(2) }
    :: atomic { done == NREQ + 1 && !pend[0] && !pend[1] && !pend[2] -> break }
    od
}

/* A node that works on a probe; it may start at any time after the probe was sent. */
proctype Target() {
    byte t, id, k, v;
end:
    do
    :: probe?t,id,k;
        (!stopped[t]);
        if
        :: atomic { has[t] -> answer!YES,k }                    /* its own, maybe stale, copy */
        :: atomic { !has[t] && kp[id] -> v = kv[id] };          /* loads */
           atomic {                                             /* takes over */
#ifdef EXCUSE
               if :: kp[id] && kv[id] != v -> excused = 1 :: else fi;
#endif
               has[t] = 1; copy[t] = v;
               if :: id != t -> kp[id] = 0 :: else fi
           }
           answer!YES,k;
           pend[t] = 1                                          /* stores the new key later */
        :: atomic { !has[t] && !kp[id] -> ghost[t] = 1; answer!NEWID,k }
        fi;
        sent[t]--
    od
}

/* What is left when nobody knows whether the probe has worked; a = old home, b = target. */
inline resolve(a, b) {
    atomic {
        if
        :: kp[a] && !kp[b] -> proven = 0
        :: !kp[a] && kp[b] -> proven = 1
#ifdef R_BOTH
        :: (kp[a] == kp[b]) -> proven = 0
#else
        :: kp[a] && kp[b] -> if :: proven = 0 :: proven = 1 fi
        :: !kp[a] && !kp[b] -> proven = 0
#endif
        fi
    }
}

inline commit(a, b, my) {
    atomic {
        if
#ifdef R_TOKEN
        :: ent && state == MOVING && token == my ->
#else
        :: ent ->
#endif
            visited = visited | BIT(a); home = b; newest = b; epoch++; infl = 0;
            state = STABLE; to = NONE; loose = 0; held = 0;
            asks = 0; asked[0] = 0; asked[1] = 0; asked[2] = 0; fresh = 0
        :: else
        fi
    }
}

/* What the module does with requests of a session whose home is lost: HOLD. */
inline hold(a, my) {
    atomic {
        if
        :: suspect[a] && ent && state == MOVING && token == my -> held = 1
        :: else
        fi
    };
    abort(my)
}

inline abort(my) {
    atomic {
        if
#ifdef R_TOKEN
        :: ent && state == MOVING && token == my -> state = STABLE; to = NONE
#else
        :: ent -> state = STABLE; to = NONE
#endif
        :: else
        fi
    }
}

/* A home that is lost: the session goes on at b, as it is. */
inline give_up(a, b, my) {
    atomic {
        if
        :: ent && state == MOVING && token == my ->
            visited = visited | BIT(a); home = b; epoch++; infl = 0;
            state = STABLE; to = NONE; loose = 1
        :: else
        fi
    }
}

#ifdef DIE
#define MAYDIE if :: goto dead :: skip fi
#else
#define MAYDIE skip
#endif

#define QUIET (infl == 0 && !pend[home] && !stopped[home] && !suspect[home])
#define FREE(n) (n != home && !(visited & BIT(n)) && !suspect[n])
#define FREE_LEFT (FREE(0) || FREE(1) || FREE(2))
#define IS_AT_IT(n) (!suspect[n] && (sent[n] || pend[n]))
#ifdef R_LATE
#define LATER(n, x) (asked[n] > asked[x] && (IS_AT_IT(n) || kp[n]))
#define COUNTS(x) \
    (kp[x] && (fresh & BIT(x) || !LATER(0, x) && !LATER(1, x) && !LATER(2, x)))
#else
#define COUNTS(x) kp[x]
#endif
#ifdef R_TWICE
#define ALL_DONE \
    ((home == 0 || !IS_AT_IT(0)) && (home == 1 || !IS_AT_IT(1)) && \
     (home == 2 || !IS_AT_IT(2)))
#else
#define ALL_DONE 1
#endif
#ifdef R_PROB
#define VOLUNTARY (QUIET && ALL_DONE && !prob)
#else
#define VOLUNTARY (QUIET && ALL_DONE)
#endif
/* With the home lost a node that may hold an old copy is asked if no other is left. */
#define CANDIDATE \
    (ent && state == STABLE && b != home && !suspect[b] && \
     (suspect[home] && \
          (!(visited & BIT(b)) || !FREE_LEFT && ALL_DONE) || \
      VOLUNTARY && !(visited & BIT(b))))

proctype Mover() {
    byte m = 0, b, a, my, id;
    bit proven;
    mtype w;
    do
    :: atomic {
           /* the home of a held session is back: does another one have it, or may it yet? */
           held && !suspect[home] && ent && state == STABLE && m < NMOVE + 2 ->
           m++; state = MOVING; token++; my = token; a = home; to = home
       }
       if
#ifdef R_BACK
       :: atomic { !kp[a] && kp[0] && asked[0] && COUNTS(0) -> b = 0; proven = 1 }; goto known
       :: atomic { !kp[a] && kp[1] && asked[1] && COUNTS(1) -> b = 1; proven = 1 }; goto known
       :: atomic { !kp[a] && kp[2] && asked[2] && COUNTS(2) -> b = 2; proven = 1 }; goto known
       :: atomic { !ALL_DONE -> skip }; abort(my)
#endif
       :: atomic {
#ifdef R_BACK
              ALL_DONE && (kp[a] || !ANY_KEY || !(asked[0] || asked[1] || asked[2])) ->
#endif
              if                                /* by one HEAD */
              :: !has[a] && kp[a] -> has[a] = 1; copy[a] = kv[a]
              :: else
              fi;
              if
              :: state == MOVING && token == my -> held = 0; state = STABLE; to = NONE
              :: else
              fi
          }
       fi
    :: m < NMOVE || (suspect[home] && m < NMOVE + 2) ->
        /* candidate, quiet, gate */
        if :: b = 0 :: b = 1 :: b = 2 fi;
#ifdef R_WORD
        if
        :: atomic {
               CANDIDATE ->
               state = MOVING; token++; my = token; a = home; to = b; id = newest;
#ifdef R_SENT
               visited = visited | BIT(b);
#endif
               if
               :: suspect[home] ->
                   acked = acked & saved        /* what was not stored died with the home */
#ifdef R_FENCE
                   ; epoch++; infl = 0
#endif
               :: else
               fi
           }
        :: atomic { else -> m++; goto next }
        fi;
#else
        if
        :: atomic { CANDIDATE -> skip }
        :: atomic { else -> m++; goto next }
        fi;
        atomic {
            if
            :: ent && state == STABLE && b != home ->
                state = MOVING; token++; my = token; a = home; to = b; id = newest
            :: else -> m++; goto next
            fi
        };
#endif
        m++;
        MAYDIE;
        /* is the session in memcached? */
#ifndef R_NEWEST
        id = cid;
#endif
        if
        :: atomic { kp[newest] -> skip }
        :: atomic {     /* a draining home is asked to store what memcached has dropped */
               !kp[newest] && !suspect[a] && has[a] && newest == a -> store(a)
           }
#ifdef R_ANYKEY
        :: atomic {
               !kp[newest] && suspect[a] && ANY_KEY ->
               if
               :: COUNTS(0) -> id = 0
               :: COUNTS(1) -> id = 1
               :: COUNTS(2) -> id = 2
               :: else -> hold(a, my); goto next
               fi
           };
           if
           :: id != a && !suspect[id] -> b = id; proven = 1; goto known
           :: else
           fi
        :: atomic { !kp[newest] && !(suspect[a] && ANY_KEY) -> skip }; abort(my); goto next
#else
        :: atomic { !kp[newest] -> assert(!suspect[a] || !ANY_KEY) };  /* GIVEN UP, BUT THERE */
           abort(my); goto next
#endif
        fi;
        MAYDIE;
#ifdef R_MPRE
        atomic { if :: state == MOVING && token == my -> marker = a :: else fi };
        MAYDIE;
#endif
#ifdef R_TOKEN
        atomic {
            if
            :: ent && state == MOVING && token == my ->
                asks++; asked[b] = asks; fresh = fresh | BIT(b); sent[b]++;
                probe!b,id,my
            :: else -> goto next
            fi
        };
#else
        atomic { asks++; asked[b] = asks; fresh = fresh | BIT(b); sent[b]++; probe!b,id,my };
#endif
        MAYDIE;
        if
        :: answer?w,eval(my) ->
            if
            :: w == YES ->
#ifdef R_FLIP
                if
                :: atomic { kp[id] -> proven = 0 }
                :: atomic { !kp[id] && kp[b] -> proven = 1 }
                :: atomic { !kp[id] && !kp[b] && !pend[b] && !sent[b] -> proven = 0 }
                fi
#else
                proven = 1
#endif
            :: w == NEWID ->
#ifdef R_SAMEID
                proven = 0
#else
                proven = 1
#endif
            fi
#ifdef TMO
        :: resolve(a, b)
#endif
        fi;
        MAYDIE;
known:
        if
        :: proven ->
#ifdef R_MPRE
            atomic { if :: state == MOVING && token == my -> marker = b :: else fi };
            MAYDIE;
            commit(a, b, my)
#else
            commit(a, b, my);
            MAYDIE;
            marker = b
#endif
#ifndef R_HOLD
        :: !proven && suspect[a] -> give_up(a, b, my)
        :: !proven && !suspect[a] -> abort(my)
#else
        :: !proven -> hold(a, my)
#endif
        fi;
next:
        skip
    :: m >= NMOVE && !suspect[home] && !held && envdone -> break
    :: m >= NMOVE + 2 -> break
    od;
    goto fin;
dead:
    mdead = 1;
fin:
    mend = 1
}

/* Another process finds a gate whose mover is dead or, with SLOW, whose lease ran out. */
proctype Recover() {
    byte a, b, my;
    bit proven;
end:
    do
    :: atomic {
           ent && state == MOVING && (mdead
#ifdef SLOW
               || !recov
#endif
               ) -> recov = 1; a = home; b = to; token++; my = token
       }
       resolve(a, b);
#ifdef R_MPRE
       atomic { if :: proven -> marker = b :: else -> marker = a fi };
       if :: proven -> commit(a, b, my) :: else -> abort(my) fi
#else
       if :: proven -> commit(a, b, my); marker = b :: else -> abort(my) fi
#endif
    od
}

proctype Env() {
#ifdef LOSE
    if
    :: atomic { kp[0] -> kp[0] = 0 }
    :: atomic { kp[1] -> kp[1] = 0 }
    :: skip
    fi;
#endif
#ifdef STOP
    if
    :: atomic { home == 0 -> stopped[0] = 1; suspect[0] = 1 };
       if :: (home != 0) :: (mdead || mend) :: (state == MOVING) :: skip fi;
       atomic { stopped[0] = 0; suspect[0] = 0 }
    :: skip
    fi;
#endif
#ifdef CRASH
    if
    :: atomic {
           has[home] && ent && state == STABLE && infl == 0 ->
           suspect[home] = 1; has[home] = 0; copy[home] = 0; pend[home] = 0;
           acked = acked & saved
       };
#ifdef BACK
       if
       :: atomic { suspect[0] -> suspect[0] = 0; if :: home == 0 -> held = 1 :: else fi }
       :: atomic { suspect[1] -> suspect[1] = 0; if :: home == 1 -> held = 1 :: else fi }
       :: atomic { suspect[2] -> suspect[2] = 0; if :: home == 2 -> held = 1 :: else fi }
       :: skip
       fi
#endif
    :: skip
    fi;
#endif
#ifdef RETURN
    if :: atomic { home != 0 -> visited = visited & ~BIT(0) } :: skip fi;
#endif
#ifdef EVICT
    if :: atomic { ent && state == STABLE -> ent = 0 } :: skip fi;
#endif
#ifdef RESTART
    if
    :: atomic {
           ent && !sent[0] && !sent[1] && !sent[2] && !pend[0] && !pend[1] && !pend[2] ->
           ent = 0; state = STABLE; token++; to = NONE; infl = 0; epoch++
       }
    :: skip
    fi;
#endif
#ifdef REBORN
    if
    :: atomic {
           has[0] && (home != 0 || infl == 0) ->
           if :: pend[0] -> acked = acked & saved :: else fi;
           has[0] = 0; copy[0] = 0; pend[0] = 0
       }
    :: skip
    fi;
#endif
#ifdef ZOMBIE
    if :: atomic { home != 0 && has[0] -> kp[0] = 1; kv[0] = copy[0] } :: skip fi;
#endif
    envdone = 1
}

/* At the end: a last reader, and no gate left shut. */
proctype Final() {
    byte h;
    (done == NREQ && mend);
    atomic {
        (len(probe) == 0 && !pend[0] && !pend[1] && !pend[2] && !(ent && state == MOVING)) ->
        if :: ent -> h = home :: else -> owner(h, cid) fi;
        if
        :: suspect[h] || held -> skip
        :: !suspect[h] && !held && has[h] -> assert(excused || (acked & ~copy[h]) == 0)  /* LOST WRITE */
        :: else -> assert(excused || kp[cid])                                   /* LOST LOGIN */
        fi;
        done++
    }
}

init {
    byte i;
    atomic {
        has[0] = 1; copy[0] = 0; kp[0] = 1; kv[0] = 0;
        run Backup(); run Target(); run Target(); run Mover(); run Recover(); run Env();
        i = 0;
        do :: i < NREQ -> run Req(i); i++ :: else -> break od;
        run Final()
    }
}
