# SPDX-License-Identifier: Apache-2.0
# Plots of lines, drawn as SVG: y is logarithmic, each line's name stands at its end.
#
#   XB::Plot::draw('file.svg', title => , x_label => , y_label => , x_ticks => [0, 2, ...],
#                  least => 1,                      # y of the lower edge; the lines' least
#                  marks => [[4, 'an event']],      # vertical lines, named
#                  lines => [{name => , colour => , points => [[x, y], ...],
#                             width => 2, dash => 0}, ...]);
package XB::Plot;
use v5.36;
use List::Util qw(max min);

my ($WIDTH, $HEIGHT, $LEFT, $RIGHT, $TOP, $BOTTOM) = (720, 380, 64, 130, 36, 48);
my ($W, $H) = ($WIDTH - $LEFT - $RIGHT, $HEIGHT - $TOP - $BOTTOM);
my $LINE = 13;                  # of text

sub draw ($file, %plot)
{
    my @x = @{$plot{x_ticks}};
    my @y = map { $_->[1] } map { @{$_->{points}} } @{$plot{lines}};
    my ($low, $high) = ($plot{least} // min(@y), max(@y));
    my %to = (
        x => sub ($v) { $LEFT + $W * ($v - $x[0]) / ($x[-1] - $x[0]) },
        y => sub ($v) { $TOP + $H * (1 - log($v / $low) / log($high / $low)) },
    );
    my $svg = join "\n", _frame(%plot), _scales(\%to, \@x, _ticks($low, $high)),
        (map { _mark(\%to, @$_) } @{$plot{marks} // []}),
        (map { _line(\%to, $_) } @{$plot{lines}}), _names(\%to, @{$plot{lines}}), '</svg>';
    open my $fh, '>', $file or die "$file: $!\n";
    print $fh "$svg\n";
    close $fh or die "$file: $!\n";
    return;
}

sub _text ($x, $y, $text, %with)
{
    my $with = join '', map { qq{ $_="$with{$_}"} } sort keys %with;
    $text =~ s/&/&amp;/g;
    $text =~ s/</&lt;/g;
    return sprintf qq{<text x="%.1f" y="%.1f"%s>%s</text>}, $x, $y, $with, $text;
}

sub _frame (%plot)
{
    my ($across, $up) = ($LEFT + $W / 2, $TOP + $H / 2);
    return qq{<svg xmlns="http://www.w3.org/2000/svg" width="$WIDTH" height="$HEIGHT" }
        . qq{font-family="sans-serif" font-size="12"><!-- SPDX-License-Identifier: Apache-2.0 -->},
        qq{<rect width="$WIDTH" height="$HEIGHT" fill="#fff"/>},
        _text($LEFT, 20, $plot{title}, 'font-size' => 14),
        _text($across, $HEIGHT - 10, $plot{x_label}, 'text-anchor' => 'middle'),
        _text(14, $up, $plot{y_label}, 'text-anchor' => 'middle',
              transform => "rotate(-90 14 $up)");
}

sub _ticks ($low, $high)
{
    my @all = map { my $e = $_; map { $_ * 10**$e } 1, 1.5, 2, 3, 5, 7 } -2 .. 6;
    return grep { $_ >= $low && $_ <= $high } @all;
}

sub _scales ($to, $x, @y)
{
    my $scale = sub ($v) {
        my $y = $to->{y}->($v);
        return sprintf(qq{<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>}, $LEFT, $y,
                       $LEFT + $W, $y), _text($LEFT - 6, $y + 4, $v, 'text-anchor' => 'end');
    };
    return (map { $scale->($_) } @y),
        map { _text($to->{x}->($_), $TOP + $H + 18, $_, 'text-anchor' => 'middle') } @$x;
}

sub _mark ($to, $at, $what)
{
    my $x = $to->{x}->($at);
    return sprintf(qq{<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#666" }
                   . qq{stroke-dasharray="4 3"/>}, $x, $TOP, $x, $TOP + $H),
        _text($x + 4, $TOP + 10, $what, fill => '#666');
}

sub _line ($to, $line)
{
    my $points = join ' ', map { sprintf '%.1f,%.1f', $to->{x}->($_->[0]), $to->{y}->($_->[1]) }
        @{$line->{points}};
    my $dash = $line->{dash} ? ' stroke-dasharray="5 3"' : '';
    return sprintf qq{<polyline points="%s" fill="none" stroke="%s" stroke-width="%s"%s/>},
        $points, $line->{colour}, $line->{width} // 2, $dash;
}

# From below, each as near to its line's end as the one before lets it; then back from the top.
sub _names ($to, @lines)
{
    my @names = sort { $b->[0] <=> $a->[0] }
        map { [$to->{y}->($_->{points}[-1][1]) + 4, $_] } @lines;
    my $free = $TOP + $H + 4;
    for my $name (@names) {
        $name->[0] = $free if $name->[0] > $free;
        $free = $name->[0] - $LINE;
    }
    $free = $TOP + 4;
    for my $name (reverse @names) {
        $name->[0] = $free if $name->[0] < $free;
        $free = $name->[0] + $LINE;
    }
    return map { _text($LEFT + $W + 6, $_->[0], $_->[1]{name}, fill => $_->[1]{colour}) } @names;
}

1;
